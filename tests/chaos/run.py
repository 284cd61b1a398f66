"""One run: tasks, supervisors, faults; then a verdict."""

import contextlib
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import psutil
from django.core.management import call_command
from django.db import Error, connections
from django.utils import timezone

from background_task.models import CompletedTask, Runner, Task

from . import nemesis, world
from .checker import violations

LEASE = 3.0
_LINKS = 5  # of each chain of repeats
_SETTLE = 180.0  # seconds for all that is left to end, when the faults are over


@dataclass
class Plan:
    """What is asked of a run."""

    database: str
    seed: int
    seconds: float  # during which there are faults
    tasks: int
    supervisors: int = 2
    workers: int = 8
    pace: float = 1.0  # seconds between two faults
    chains: int = 3


@dataclass
class Verdict:
    """What became of it."""

    plan: Plan
    faults: Counter = field(default_factory=Counter)
    broken: list = field(default_factory=list)
    restarts: list = field(default_factory=list)  # seconds from a loss to the next try
    outcomes: Counter = field(default_factory=Counter)
    ended: int = 0
    took: float = 0.0
    folder: str = ""

    def __str__(self):
        plan = self.plan
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        ends = ", ".join(f"{kind} {n}" for kind, n in sorted(self.outcomes.items()))
        times = "none"
        if len(self.restarts) > 1:
            cuts = statistics.quantiles(self.restarts, n=20)
            times = (
                f"p50 {statistics.median(self.restarts):.2f} s, p95 {cuts[-1]:.2f} s, "
                f"max {max(self.restarts):.2f} s ({len(self.restarts)} restarts)"
            )
        return (
            f"{plan.database}, seed {plan.seed}: {plan.tasks} tasks and {plan.chains} "
            f"chains, {plan.supervisors} supervisors, {self.took:.0f} s\n"
            f"faults: {sum(self.faults.values())} ({kinds})\n"
            f"tries: {ends}\n"
            f"from the last sign of life to the next try: {times}\n"
            f"{'KEPT every promise' if not self.broken else 'BROKEN:'}\n"
            + "".join(f"  {one}\n" for one in self.broken[:40])
        )


def carry_out(plan):
    """Run it; return the verdict. The folder is kept if a promise was broken."""
    folder = world.a_folder()
    verdict = Verdict(plan, folder=str(folder))
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        database = world.database(plan.database, folder)
        settings, server = stack.enter_context(database)
        stack.enter_context(world.default_database(settings))
        call_command("migrate", verbosity=0)
        world.keep_ledger()
        proxy = None
        seen = dict(settings)
        if plan.database != "sqlite":
            proxy = world.Proxy(_upstream(settings))
            stack.callback(proxy.close)
            seen |= {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        options = ("--workers", plan.workers, "--sleep", 1)
        supervisors = world.Supervisors(plan.supervisors, seen, folder, options, LEASE)
        stack.callback(supervisors.end)
        story = Story(plan, folder, settings, supervisors, proxy, server, verdict)
        story.tell()
        verdict.broken = violations(story.evidence())
    verdict.took = time.monotonic() - began
    if not verdict.broken:
        world.remove(folder)
    return verdict


def _upstream(settings):
    host, port = settings.get("HOST", ""), settings.get("PORT") or 0
    if host.startswith("/"):  # a folder with PostgreSQL's socket
        (path,) = [f"{host}/{n}" for n in os.listdir(host) if n.endswith(".5432")]
        return path
    return int(port)


class Story:
    """Enqueue, break, mend, wait, gather."""

    def __init__(self, plan, folder, settings, supervisors, proxy, server, verdict):
        self._settings = settings
        self.plan, self.folder, self.verdict = plan, folder, verdict
        self.supervisors, self.proxy, self.server = supervisors, proxy, server
        self.enqueued, self.chains = {}, {}
        self.killed = set()  # runners
        self._dice = random.Random(plan.seed)
        self._undo = []  # (when, what)
        self._seen = set()  # runners
        self._look_at = 0.0
        self._kinds = dict(nemesis.EVERYWHERE)
        if proxy is not None:
            self._kinds |= nemesis.BY_PROXY
        if server is not None:
            self._kinds |= nemesis.OF_A_SERVER

    def tell(self):
        """Have it all happen; return when everything has ended, or time is over."""
        driver = threading.Thread(target=self._enqueue_in_thread, daemon=True)
        driver.start()
        began = time.monotonic()
        for fault in nemesis.schedule(
            self.plan.seed, self.plan.seconds, self._kinds, LEASE, self.plan.pace
        ):
            while (left := began + fault.at - time.monotonic()) > 0:
                self._undo_what_is_due()
                self._look_at_runners()
                self.supervisors.revive()
                time.sleep(min(left, 0.1))
            self._do(fault)
        while driver.is_alive():
            self._undo_what_is_due()
            self.supervisors.revive()
            driver.join(0.1)
        self._settle()

    def _look_at_runners(self):
        """Know by name who may lose a lease."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + 0.5
        try:
            self._seen |= set(Runner.objects.values_list("pk", flat=True))
        except Error:
            connections["default"].close()

    def _enqueue_in_thread(self):
        with world.default_database(self._settings):  # each thread has its own
            self._enqueue_all()

    def _enqueue_all(self):
        """Enqueue at an even pace, so that there is work while things break."""
        from tests.app import chaos

        journal = str(self.folder / "journal")
        dice = random.Random(self.plan.seed + 1)
        for number in range(self.plan.chains):
            label = f"chain-{number}"
            self.chains[label] = _LINKS
            self._insist(
                lambda label=label: chaos.link(
                    journal,
                    label,
                    0.1,
                    repeat=2,
                    repeat_until=timezone.now() + timedelta(seconds=2 * _LINKS),
                )
            )
        began, total = time.monotonic(), self.plan.tasks
        batch = max(1, total // 200)
        for start in range(0, total, batch):
            for number in range(start, min(start + batch, total)):
                kind = "failing" if number % 20 == 0 else "steady"
                label, seconds = f"{kind}-{number}", round(dice.uniform(0.05, 0.5), 3)
                function = getattr(chaos, kind)
                task = self._insist(
                    lambda f=function, la=label, s=seconds: f(journal, la, s)
                )
                self.enqueued[task.pk] = label
            due = began + self.plan.seconds * (start + batch) / total
            time.sleep(max(0.0, due - time.monotonic()))

    def _insist(self, enqueue):
        """Enqueue although the database is away: as a web process would, again."""
        while True:
            try:
                return enqueue()
            except Error:
                connections["default"].close()
                time.sleep(0.2)

    # What goes wrong

    def _do(self, fault):
        kind, _, whom = fault.kind.partition(" ")
        done = False
        match kind:
            case "kill" | "freeze":
                done = self._signal(kind, whom, fault)
            case "drain":
                done = self._to_a_supervisor(signal.SIGTERM, fault)
            case "stop":
                done = self._stop_server(whom, fault)
            case _:
                done = self._by_proxy(fault)
        if done:
            self.verdict.faults[fault.kind] += 1

    def _signal(self, kind, whom, fault):
        number = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
        if whom == "supervisor":
            return self._to_a_supervisor(number, fault)
        names = {"task": "background_task: task ", "launcher": " launcher ("}
        wanted = names.get(whom, f" {whom}")
        found = [p for p, title in self.supervisors.processes() if wanted in title]
        if not found:
            return False
        process = found[int(fault.which * len(found))]
        return self._send(process, number, fault)

    def _to_a_supervisor(self, number, fault):
        alive = [p for p in self.supervisors.alive if p.poll() is None]
        if not alive:
            return False
        process = alive[int(fault.which * len(alive))]
        if number in (signal.SIGKILL, signal.SIGSTOP):
            self.killed |= self._runners_of(process.pid)
        return self._send(psutil.Process(process.pid), number, fault)

    def _runners_of(self, pid):
        """Return the runners of a supervisor; all of them if nobody can tell."""
        try:
            return set(Runner.objects.filter(pid=pid).values_list("pk", flat=True))
        except Error:
            connections["default"].close()
            return set()

    def _send(self, process, number, fault):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        if number == signal.SIGSTOP:
            self._later(fault.lasts, lambda: self._wake(process))
        return True

    def _wake(self, process):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)

    def _stop_server(self, how, fault):
        is_down = any(what == self._start_server for _, what in self._undo)
        if self.server is None or is_down:
            return False
        self.killed |= self._seen  # their leases may lapse meanwhile
        pid = self.server.get_pid()
        connections["default"].close()
        number = signal.SIGINT if how == "fast" else signal.SIGQUIT
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(number)
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(pid).wait(10)
        self._later(fault.lasts, self._start_server)
        return True

    def _start_server(self):
        self.server.ensure_postgres_running()

    def _by_proxy(self, fault):
        if self.proxy is None:
            return False
        self.killed |= self._seen  # as above
        match fault.kind:
            case "cut":
                self.proxy.cut()
                return True
            case "blackhole":
                self.proxy.blackholes = True
            case "delay":
                self.proxy.delay = 0.2
            case "refuse":
                self.proxy.refuses = True
                self.proxy.cut()
            case "cut in commit":
                self.proxy.cuts_commits = True
        self._later(fault.lasts, self.proxy.calm)
        return True

    def _later(self, seconds, what):
        self._undo.append((time.monotonic() + seconds, what))

    def _undo_what_is_due(self, *, all_of_it=False):
        now = time.monotonic()
        due = [one for one in self._undo if all_of_it or one[0] <= now]
        self._undo = [one for one in self._undo if one not in due]
        for _, what in due:
            what()

    # Afterwards

    def _settle(self):
        """Mend everything, and wait until nothing is left to do."""
        self._undo_what_is_due(all_of_it=True)
        if self.proxy is not None:
            self.proxy.calm()
        give_up_at = time.monotonic() + _SETTLE
        while time.monotonic() < give_up_at:
            self.supervisors.revive()
            try:
                if not Task.objects.exists():
                    break
            except Error:
                connections["default"].close()
            time.sleep(0.2)
        self.supervisors.close()
        time.sleep(0.5)

    def evidence(self):
        processes = [title for _, title in self.supervisors.processes()]
        found = world.evidence(
            self.folder,
            self.enqueued,
            {"steady": 50, "failing": 3},
            self.chains,
            self.killed,
            processes,
        )
        self.verdict.outcomes = Counter(one.outcome for one in found.attempts)
        self.verdict.ended = CompletedTask.objects.count()
        self.verdict.restarts = _restarts(found.journal)
        return found


def _restarts(journal):
    """Return how long after the last sign of life of a try the next one began.

    Of tries that wrote no end: they were killed.
    """
    tries = {}
    for line in journal:
        new = line.at, line.at, False
        first, last, ended = tries.get((line.task, line.claim), new)
        ended = ended or line.event == "end"
        tries[line.task, line.claim] = min(first, line.at), max(last, line.at), ended
    by_task = {}
    for (task, _), span in tries.items():
        by_task.setdefault(task, []).append(span)
    found = []
    for spans in by_task.values():
        spans.sort()
        for (_, last, ended), (begun, _, _) in pairwise(spans):
            if not ended:
                found.append(begun - last)
    return found
