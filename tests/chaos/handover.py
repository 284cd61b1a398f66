"""How long until a task that was lost runs again, and was its former try dead by then?

python -m tests.chaos.handover --seeds 50     one of two hosts is cut off each time
python -m tests.chaos.handover --times        each way of losing a task, with its times
"""

import argparse
import contextlib
import itertools
import os
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass

import django
import psutil

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

WAYS = "blackhole", "refuse", "cut, then blackhole"
LEASE = 3.0
_OPTIONS = "--workers", 2, "--sleep", 1


@dataclass(frozen=True)
class Handover:
    """A task that was lost, and that another try has taken up."""

    how: str
    deaf: bool  # to being asked to stop
    after: float  # seconds from the fault to the next try
    margin: float  # seconds from the last sign of life to the next try

    def __str__(self):
        deaf = "deaf" if self.deaf else "obedient"
        kept = "ok" if self.margin > 0 else "OVERLAP"
        return (
            f"{kept}: {self.how}, {deaf}: last sign of life {self.margin:.2f} s before "
            f"the next try, which began {self.after:.2f} s after the fault"
        )


class Scene:
    """Tasks that run until they are told to end, on hosts of a stage."""

    def __init__(self, folder, server, hosts):
        self._folder, self.server, self.hosts = folder, server, hosts
        self._journal = folder / "journal"
        self._numbers = itertools.count(1)

    def ready(self):
        """Have every host at work, and nothing left of an earlier scene."""
        from background_task.models import Runner

        for proxy in self.hosts.proxies():
            proxy.calm()

        def all_at_work():
            self.hosts.revive()
            known = set(Runner.objects.values_list("place", "pid"))
            return known == {host.name for host in self.hosts}

        self._until(all_at_work)

    def task(self, deaf=False):
        """Enqueue one that runs until it is told to end; return its label."""
        from tests.app import chaos

        label = f"task-{next(self._numbers)}"
        chaos.until_told(str(self._journal), label, str(self._folder / label), deaf)
        return label

    def begun(self, label, former=()):
        """Wait for a try of it to begin that is none of these; return that line."""

        def begin():
            for line in self._lines(label):
                if line.event == "begin" and line.claim not in former:
                    return line
            return None

        return self._until(begin)

    def host_of(self, line):
        """Return the host, and the process, of a try."""
        from background_task.models import Runner, Task

        runner = Task.objects.get(pk=line.task).locked_by
        name = Runner.objects.values_list("place", "pid").get(pk=runner)
        host = self.hosts.of(*name)
        wanted = f"background_task: task {line.task}"
        (process,) = [one for one, title in host.processes() if wanted in title]
        return host, process

    def handover(self, label, first, how, deaf, moment):
        """Wait for the next try of a task that a fault has struck at this moment."""
        second = self.begun(label, {first.claim})
        last = max(line.at for line in self._lines(label) if line.claim == first.claim)
        self.end(label)
        return Handover(how, deaf, second.at - moment, second.at - last)

    def end(self, label):
        """Have a task end, and wait until that is in the books."""
        from background_task.models import Task

        (self._folder / label).touch()
        self._until(lambda: not Task.objects.filter(task_params__contains=label))

    def only_try(self, label, first):
        """Assert that nobody else has begun it."""
        others = {line.claim for line in self._lines(label)} - {first.claim}
        if others:
            raise AssertionError(f"{label} was tried again: {others}")

    def _lines(self, label):
        from .world import journal

        return [line for line in journal(self._journal) if line.label == label]

    def _until(self, condition, patience=120.0):
        from django.db import Error, connections

        give_up_at = time.monotonic() + patience
        while time.monotonic() < give_up_at:
            try:
                if found := condition():
                    return found
            except Error:
                connections["default"].close()
            time.sleep(0.01)
        raise AssertionError(f"Waited {patience:g} s in vain")


@contextlib.contextmanager
def scene(database="postgresql", number=2, lease=LEASE, *, apart):
    """Yield a Scene; nothing of it is left afterwards."""
    from . import world
    from .stage import stage

    folder = world.a_folder()
    try:
        with stage(database, folder, number, _OPTIONS, lease, apart=apart) as found:
            _, server, hosts = found
            yield Scene(folder, server, hosts)
    finally:
        world.remove(folder)


def cut_off(play, seed):
    """Cut off the host that runs a task, in a way of the seed; return the handover."""
    from .world import now

    dice = random.Random(seed)
    deaf, way = dice.random() < 0.5, dice.choice(WAYS)
    play.ready()
    label = play.task(deaf)
    first = play.begun(label)
    host, _ = play.host_of(first)
    time.sleep(dice.uniform(0, LEASE / 3))  # anywhere between two renewals
    moment = now()
    if way == "refuse":
        host.proxy.refuses = True
    else:
        host.proxy.blackholes = True
    if way != "blackhole":
        host.proxy.cut()
    return play.handover(label, first, f"seed {seed}, {way}", deaf, moment)


def _times(how, repeat, play, fault):
    """Print how long it takes until a task runs again, after a fault."""
    from .world import now

    found = []
    for _ in range(repeat):
        play.ready()
        label = play.task()
        first = play.begun(label)
        host, process = play.host_of(first)
        moment = now()
        fault(host, process)
        found.append(play.handover(label, first, how, False, moment))
    _tell(how, [one.after for one in found])
    if any(one.margin <= 0 for one in found):
        raise AssertionError(f"{how}: two tries at once")


def _tell(how, seconds):
    print(
        f"{how:<58} p50 {statistics.median(seconds):6.2f} s   "
        f"max {max(seconds):6.2f} s   ({len(seconds)} times)",
        flush=True,
    )


def _kill_supervisor(host, _):
    host.signal(signal.SIGKILL)


def _blackhole(host, _):
    host.proxy.blackholes = True


def _all_times(repeat):
    with scene(number=1, apart=False) as play:
        _times("task killed", repeat, play, lambda _, process: process.kill())
        _times(
            "supervisor killed, and started again at once",
            repeat,
            play,
            _kill_supervisor_and_revive,
        )
    with scene(number=1, lease=30.0, apart=False) as play:
        _database_restarted(repeat, play)
    with scene(number=2, lease=30.0, apart=False) as play:
        how = "supervisor killed, another one on its host"
        _times(how, repeat, play, _kill_supervisor)
    with scene(number=2, apart=True) as play:
        how = "host gone, another host, lease 3 s"
        _times(how, repeat, play, lambda host, _: host.process.kill())
        _times("host cut off, another host, lease 3 s", repeat, play, _blackhole)
    with scene(number=2, lease=30.0, apart=True) as play:
        how = "host cut off, another host, lease 30 s (the default)"
        _times(how, max(1, repeat // 4), play, _blackhole)


def _kill_supervisor_and_revive(host, _):
    host.signal(signal.SIGKILL)
    host.process.wait()
    host.start()


def _database_restarted(repeat, play):
    """A task goes on meanwhile; one enqueued at once afterwards begins."""
    from django.db import connections

    from .world import now

    for how, number in ("fast", signal.SIGINT), ("immediate", signal.SIGQUIT):
        found = []
        for _ in range(repeat):
            play.ready()
            running = play.task()
            first = play.begun(running)
            connections["default"].close()
            server = psutil.Process(play.server.get_pid())
            server.send_signal(number)
            server.wait(60)
            play.server.ensure_postgres_running()
            moment = now()
            label = play.task()
            found.append(play.begun(label).at - moment)
            play.end(label)
            play.end(running)
            play.only_try(running, first)
        _tell(f"database stopped {how} and started; once it accepts", found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, help="how often a host is cut off")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--repeat", type=int, default=20, help="of each, for --times")
    parser.add_argument("--database", default="postgresql")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Broken off"))
    django.setup()
    if options.times:
        _all_times(options.repeat)
        return 0
    seeds = range(options.first, options.first + (options.seeds or 5))
    found = []
    with scene(options.database, apart=True) as play:
        for seed in seeds:
            found.append(cut_off(play, seed))
            print(found[-1], flush=True)
    margins = [one.margin for one in found]
    print(
        f"{len(found)} seeds, {sum(margin <= 0 for margin in margins)} overlaps; from "
        f"the last sign of life to the next try at least {min(margins):.2f} s"
    )
    _tell("host cut off, until the other starts its task", [one.after for one in found])
    return int(min(margins) <= 0)


if __name__ == "__main__":
    sys.exit(main())
