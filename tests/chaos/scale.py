"""What does a task, and an idle host, cost PostgreSQL, with 1, 2 and 4 hosts on it?

python -m tests.chaos.scale

Each host is a pid namespace with a `process_tasks` of its own, and the server is one of
its own. CPU seconds, counts and bytes, as the server counts them: of clocks, only that
of statements is read, which a busy machine stretches.
"""

import argparse
import contextlib
import os
import re
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

import django
import psutil

from benchmarks import processes

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

LEASE, WORKERS = 30.0, 2
IDLE = float(
    os.environ.get("SCALE_IDLE", 60)
)  # seconds that hosts are watched with nothing to do
EVERY = 0.2  # seconds between two tasks that come one by one
_PATIENCE = 300.0
_FLUSH = 1.5  # seconds until a session has told the server what it has counted
_COUNTED = """
    SELECT xact_commit + xact_rollback, deadlocks,
           (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'),
           pg_current_wal_lsn() - '0/0'::pg_lsn
    FROM pg_stat_database WHERE datname = current_database()
"""
# Those of a claim: the runner's row held, tasks looked for and locked.
_CLAIM = {
    "hold": re.compile(r'FROM "background_task_runner".*FOR UPDATE'),
    "look": re.compile(r'FROM "background_task" .*SKIP LOCKED'),
    "lock": re.compile(r'UPDATE "background_task" SET "locked_by"'),
}
_SHOWN = "server_version", "fsync", "synchronous_commit", "shared_buffers"
_DURATION = re.compile(r"duration: ([\d.]+) ms  (?:statement|execute [^:]*): (.*)")


@dataclass
class Use:
    """What a server has used and counted, in all or meanwhile."""

    cpu: float  # seconds
    transactions: int
    deadlocks: int
    wal: float  # bytes
    syncs: int

    def __sub__(self, other):
        return Use(*(a - b for a, b in zip(self.all(), other.all(), strict=True)))

    def all(self):
        return self.cpu, self.transactions, self.deadlocks, self.wal, self.syncs

    def less(self, idle, seconds):
        """Return what is left of it without what idle hosts use in so many seconds."""
        rates = (one / IDLE * seconds for one in idle.all())
        return Use(*(a - b for a, b in zip(self.all(), rates, strict=True)))


class Scales:
    """A server, hosts at work on it, and what both use."""

    def __init__(self, folder, server, hosts):
        self.folder, self.hosts = folder, hosts
        self._postmaster = psutil.Process(server.get_pid())
        self._log = folder / "pg" / "log"
        self._journal = folder / "journal"
        self._labels = 0

    def ready(self):
        """Wait until every host is at work and has nothing more to start."""
        from background_task.models import Runner

        names = {host.name for host in self.hosts}
        _until(lambda: set(Runner.objects.values_list("place", "pid")) == names)
        processes.settle(host.process.pid for host in self.hosts)

    def use(self):
        """Return what the server has used until now, its former processes included."""
        time.sleep(_FLUSH)
        (row,) = _ask(_COUNTED)
        transactions, deadlocks, syncs, wal = row
        alive = [self._postmaster, *self._postmaster.children(recursive=True)]
        times = self._postmaster.cpu_times()
        cpu = processes.cpu(one.pid for one in alive)
        cpu += times.children_user + times.children_system
        return Use(cpu, transactions, deadlocks, float(wal), int(syncs))

    def connections(self):
        """Return how many there are, but for this process's own."""
        (row,) = _ask(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return row[0]

    def idle(self):
        before = self.use()
        time.sleep(IDLE)
        return self.use() - before

    def drain(self, task, n):
        """Have so many tasks fall due at once; return what running them has used.

        And the seconds that took; enqueueing is over before.
        """
        from django.db import transaction

        due = _now() + timedelta(seconds=5 + n * 0.01)
        done = len(self._ended())
        with transaction.atomic():  # one commit: it is not what is measured
            self._enqueue(task, n, schedule=due)
        before, began = self.use(), time.monotonic()
        if _now() >= due:
            raise AssertionError("Enqueueing took too long: these tasks are due")
        _until(lambda: len(self._ended()) == done + n)
        used = self.use() - before
        return used, time.monotonic() - began

    def trickle(self, task, n):
        """Enqueue one after the other; return what each has used, and the seconds."""
        before, began = self.use(), time.monotonic()
        done = len(self._ended())
        for _ in range(n):
            self._enqueue(task, 1)
            time.sleep(EVERY)
        _until(lambda: len(self._ended()) == done + n)
        used = self.use() - before
        return used, time.monotonic() - began

    def enqueue(self, task, n):
        """Return what enqueueing costs: tasks of a time that never comes."""
        before = self.use()
        self._enqueue(task, n, schedule=_now() + timedelta(days=365))
        used = self.use() - before
        _ask("DELETE FROM background_task")
        return used

    def busy_connections(self):
        """Return how many there are while each worker runs a task that has asked."""
        from tests.app import chaos

        n, told = len(list(self.hosts)) * WORKERS, self.folder / f"told-{self._labels}"
        done = len(self._ended())
        for _ in range(n):
            self._labels += 1
            chaos.stay(str(self._journal), f"task-{self._labels}", str(told))
        _until(lambda: self._lines("begin") >= n)
        found = self.connections()
        told.touch()
        _until(lambda: len(self._ended()) == done + n)
        return found

    def statements(self, task, n):
        """Return the milliseconds of the statements of claims, and how many all were.

        The server logs every statement meanwhile, which costs it more than they do.
        """
        _ask("ALTER SYSTEM SET log_min_duration_statement = 0")
        _ask("SELECT pg_reload_conf()")
        where = self._log.stat().st_size
        self.drain(task, n)
        _ask("ALTER SYSTEM RESET log_min_duration_statement")
        _ask("SELECT pg_reload_conf()")
        with self._log.open() as file:
            file.seek(where)
            found = _DURATION.findall(file.read())
        kinds = {
            kind: [float(ms) for ms, text in found if pattern.search(text)]
            for kind, pattern in _CLAIM.items()
        }
        return kinds

    def waits(self):
        """Return how often a session has waited longer for a lock than it is logged."""
        return self._log.read_text(errors="replace").count("still waiting for")

    def _enqueue(self, task, n, **how):
        for _ in range(n):
            self._labels += 1
            task(str(self._journal), f"task-{self._labels}", **how)

    def _lines(self, event):
        if not self._journal.exists():
            return 0
        return self._journal.read_text().count(f"{event} ")

    def _ended(self):
        return range(self._lines("end"))


@contextlib.contextmanager
def scales(number, *options):
    """Yield Scales with so many hosts; nothing of them is left afterwards."""
    from django.core.management import call_command

    from . import world
    from .hosts import Hosts

    folder = world.a_folder()
    try:
        with contextlib.ExitStack() as stack:
            settings, server = stack.enter_context(world.database("postgresql", folder))
            stack.enter_context(world.default_database(settings))
            call_command("migrate", verbosity=0)
            _ask("ALTER SYSTEM SET log_lock_waits = on")
            _ask("ALTER SYSTEM SET deadlock_timeout = '50ms'")
            _ask("SELECT pg_reload_conf()")
            all_options = "--workers", WORKERS, *options
            hosts = Hosts(
                number, settings, folder, all_options, LEASE, apart=True, upstream=None
            )
            stack.callback(hosts.end)
            found = Scales(folder, server, hosts)
            found.ready()
            yield found
    finally:
        world.remove(folder)


def measure(number, n):
    """Return the cells of a table for so many hosts."""
    from tests.app import chaos

    with scales(number) as it:
        server = [_ask(f"SHOW {name}")[0][0] for name in _SHOWN]
        idle = it.idle()
        idle_connections = it.connections()
        drained, _ = it.drain(chaos.noop, n)
        visited, _ = it.drain(chaos.visit, n)
        came, seconds = it.trickle(chaos.noop, n // 5)
        came = came.less(idle, seconds)
        connections = it.busy_connections()
        enqueued = it.enqueue(chaos.noop, n)
        kinds = it.statements(chaos.noop, n)
        waits = it.waits()
    deadlocks = drained.deadlocks + visited.deadlocks + came.deadlocks
    cells = {
        "server": ", ".join(server),
        "connections, idle": idle_connections,
        "connections, every worker's task uses the database": connections,
        "idle: transactions/s of each host": idle.transactions / IDLE / number,
        "idle: ms of CPU per second, of each host": idle.cpu / IDLE / number * 1e3,
        "idle: WAL bytes/s of each host": idle.wal / IDLE / number,
    }
    uses = {
        "drain": (drained, n),
        "drain, each task connects and asks once": (visited, n),
        f"one each {EVERY:g} s": (came, n // 5),
        "enqueueing": (enqueued, n),
    }
    for how, (used, tasks) in uses.items():
        cells[f"{how}: CPU s per 1,000"] = used.cpu / tasks * 1e3
        cells[f"{how}: transactions per task"] = used.transactions / tasks
        cells[f"{how}: WAL bytes per task"] = used.wal / tasks
        cells[f"{how}: WAL syncs per task"] = used.syncs / tasks
    for kind, took in kinds.items():
        cells[f"claim, {kind}: statements per 1,000 tasks"] = len(took) / n * 1e3
        cells[f"claim, {kind}: median ms"] = statistics.median(took) if took else None
    cells["waits for a lock over 50 ms"] = waits
    cells["deadlocks"] = deadlocks
    return cells


def measure_reuse(number, n):
    """Return the same of tasks that share processes, and with them connections."""
    from tests.app import chaos

    with scales(number, "--tasks-per-process", 100) as it:
        it.drain(chaos.visit, n)  # every worker has a process, and that a connection
        visited, _ = it.drain(chaos.visit, n)
        connections = it.busy_connections()
    return {
        "--tasks-per-process 100: connections, busy": connections,
        "--tasks-per-process 100, each task asks once: CPU s per 1,000": visited.cpu
        / n
        * 1e3,
        "--tasks-per-process 100: transactions per task": visited.transactions / n,
    }


def _ask(sql):
    from django.db import connections

    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def _now():
    from django.utils import timezone

    return timezone.now()


def _until(condition):
    give_up_at = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"Waited {_PATIENCE:g} s in vain")
        time.sleep(0.1)


def _table(by_number):
    """Return the table, in Markdown: a line for each value, a column for each run."""
    names = list(dict.fromkeys(name for cells in by_number.values() for name in cells))
    lines = [
        f"|  | {' | '.join(f'{number} hosts' for number in by_number)} |",
        f"|{' --- |' * (len(by_number) + 1)}",
    ]
    for name in names:
        cells = [_text(found.get(name)) for found in by_number.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(value):
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--tasks", type=int, default=600)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Broken off"))
    django.setup()
    found = {}
    for number in options.hosts:
        found[number] = measure(number, options.tasks)
        found[number] |= measure_reuse(number, options.tasks)
        print(number, found[number], flush=True)
    print(f"load of the machine: {os.getloadavg()}; {os.cpu_count()} cores\n")
    print(_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
