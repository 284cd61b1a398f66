"""Which tasks may a runner take, and how does it take them so that nobody else does?

Correctness is one guarded UPDATE on every database: still unlocked? Then mine.
`SKIP LOCKED`, where the database has it, is a courtesy that keeps runners from queuing
behind one another. This is the only module where databases differ.

The cost of a claim does not grow with the tables: every statement reads a bounded part
of one index (docs/decisions/0011-claims-that-do-not-grow.md has the plans). Tasks of
other queues are never seen, future ones are stepped over a priority at a time, and
those of unknown names are passed by in Python up to a limit, by name beyond it.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, router
from django.db.models import Exists, OuterRef, Value
from django.db.models.functions import Coalesce
from django.db.models.sql import UpdateQuery
from django.utils import timezone

from . import books, leases
from .compiled import statement
from .indexes import BY_NAME, BY_PRIORITY, BY_QUEUE, WAITING
from .managers import TaskQuerySet
from .models import CompletedTask, Runner, Task
from .outages import UNREADABLE
from .settings import app_settings

logger = logging.getLogger("background_task.tasks")

_last_claim: datetime | None = None

# For a connection that claims. Before a burst of tasks has been analyzed PostgreSQL
# thinks that next to nothing waits, and sorts it all: 100 ms for each 100,000 tasks.
# What is off costs 1e10, and what costs so much is compiled first: 50 ms for a look at
# one row, where a small table is best read whole.
SESSION = {
    "postgresql": (
        "SET enable_sort = off",
        "SET enable_bitmapscan = off",
        "SET enable_seqscan = off",
        "SET jit = off",
    )
}

_SHOWN = 20  # unknown names that are told of
_PRIORITIES = 16  # that a look steps down, per queue
_PASSED_BY = 500  # due tasks of one priority that a look reads past unknown names
_OF_EACH_NAME = 50  # due the longest, among which the most urgent is found beyond that


def claim(
    runner_id: str,
    names: Collection[str],
    queues: Collection[str],
    n: int,
    running: Collection[int] = (),
) -> list[Task]:
    """Lock at most `n` due tasks for a runner and return them, the next one first.

    Of these queues only, or of every queue and of none if none is named. Names that
    are unknown here are left alone: another runner may know them. So are the `running`,
    whatever their rows say: somebody may have unlocked them. Called inside a
    transaction. Raises LeaseLost when the runner is not trusted any more: what it would
    take might be taken for lost at once.
    """
    leases.hold(runner_id)
    tasks = _Look(names, queues, running, lock=True).next(n)
    if not tasks:
        return []
    locked_at = _moment_of_claim()
    pks = [task.pk for task in tasks]
    if _lock(pks, runner_id, locked_at) < len(tasks):
        rows = _tasks().filter(pk__in=pks, locked_by=runner_id, locked_at=locked_at)
        mine = set(rows.values_list("pk", flat=True))
        tasks = [task for task in tasks if task.pk in mine]
    for task in tasks:
        task.holds_claim(runner_id, locked_at)
    return tasks


def _lock(pks: list[int], runner_id: str, locked_at: datetime) -> int:
    """Lock those of these tasks that are unlocked; return how many."""
    # "Still unlocked?" as no index can answer it: PostgreSQL would take the index of
    # `locked_by` when it thinks that hardly anything waits, and read all that does.
    free = _tasks().alias(holder=Coalesce("locked_by", Value(""))).filter(holder="")

    def update() -> Any:
        query: Any = free.filter(pk__in=pks).query.chain(UpdateQuery)
        query.add_update_values({"locked_by": runner_id, "locked_at": locked_at})
        return query

    connection = connections[free.db]
    values = [runner_id, locked_at, "", "", *pks]
    with connection.cursor() as cursor:
        cursor.execute(*statement(connection, ("lock", len(pks)), update, values))
        return int(cursor.rowcount)


def may_be_due(names: Collection[str], queues: Collection[str]) -> bool:
    """Look, without locking anything, whether a claim would find something."""
    return bool(_Look(names, queues, (), lock=False).next(1))


def next_run_at(within: float) -> datetime | None:
    """Return when the first task that is not due yet will be; of any name and queue.

    None if that is not within so many seconds: later moments may be none that Python
    knows, such as PostgreSQL's infinity.
    """
    now = timezone.now()
    later = _tasks().filter(run_at__gt=now, run_at__lte=now + timedelta(seconds=within))
    return later.order_by("run_at").values_list("run_at", flat=True).first()


def unknown_names(names: Collection[str], queues: Collection[str]) -> set[str]:
    """Return some other names of tasks that are due in these queues, about twenty."""
    due = {"run_at__lte": timezone.now()}
    is_lax = connections[router.db_for_write(Task)].vendor == "mysql"
    unknown: set[str] = set()
    for name in _distinct({}, "task_name", BY_NAME):
        if name not in names or is_lax:
            # There, other names may be this one to the collation.
            for lane in [{"queue": queue} for queue in queues] or [{}]:
                alike = {**due, **lane, "task_name": name}
                front = _Waiting(
                    BY_NAME, alike, "run_at", _OF_EACH_NAME, only=("task_name",)
                )
                unknown |= {task.task_name for task in front.read()} - set(names)
        if len(unknown) >= _SHOWN:
            break
    return unknown


def unused_queues(queues: Iterable[str]) -> set[str]:
    """Return those of these queues that no task is in, be it waiting or completed."""
    return {queue for queue in queues if not _is_used(queue)}


def _is_used(queue: str) -> bool:
    completed = CompletedTask.objects.using(router.db_for_write(CompletedTask))
    rows = _tasks().filter(queue=queue), completed.filter(queue=queue)
    return any(found.exists() for found in rows)


def free_expired() -> int:
    """Unlock what has been locked for MAX_RUN_TIME and is no runner's; return how many.

    The rule of 1.2.8, for the locks of its runners and of in-process runners.
    """
    limit = timedelta(seconds=app_settings.BACKGROUND_TASK_MAX_RUN_TIME)
    rows = _tasks().filter(locked_at__lt=timezone.now() - limit)
    held = Runner._base_manager.filter(pk=OuterRef("locked_by"))
    return rows.exclude(Exists(held)).update(**books.UNLOCKED)


def reclaim_pids() -> int:
    """Unlock what is locked by a bare pid, and say how many tasks that were.

    A pid names no host: only a person can know that no runner of 1.2.8 and no
    in-process runner is left. Costs no attempt, as when such a lock expires.
    """
    rows = _tasks().filter(locked_by__regex=r"^[0-9]+$")
    reclaimed = rows.update(**books.UNLOCKED)
    logger.warning("Tasks unlocked that were locked by a bare pid: %s", reclaimed)
    return reclaimed


def _distinct(
    where: dict[str, Any], field: str, index: str, *, descending: bool = False
) -> Iterator[Any]:
    """Yield the values of a column in order: one step in an index for each.

    The databases' own DISTINCT reads every row.
    """
    beyond = f"{field}__{'lt' if descending else 'gt'}"
    order = f"-{field}" if descending else field
    first = _Waiting(index, where, order, n=1, only=(field,))
    found = first.read()
    while found:
        value = getattr(found[0], field)
        yield value
        found = replace(first, where={**where, beyond: value}).read()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The first few of the tasks that wait, as they stand in an index.

    `where` are lookups of single values; `only` these columns, if any, are read.
    """

    index: str
    where: dict[str, Any]
    order: str
    n: int
    only: tuple[str, ...] = ()
    lock: bool = False

    def read(self) -> list[Task]:
        """Return the rows; what Python can't read is abandoned first."""
        while True:
            try:
                return list(self._rows())
            except UNREADABLE:
                if not books.set_aside_unreadable(self._query()):
                    raise

    def _query(self) -> TaskQuerySet:
        rows = _tasks().filter(WAITING).order_by(self.order)
        for lookup, value in self.where.items():  # one by one, in this order
            rows = rows.filter(**{lookup: value})
        rows = rows.lock_unlocked_rows() if self.lock else rows
        return (rows.only(*self.only) if self.only else rows)[: self.n]

    def _rows(self) -> Iterable[Task]:
        alias = router.db_for_write(Task)
        shape = (*self.where, self.index, self.order, self.n, self.only, self.lock)
        sql, params = statement(
            connections[alias],
            shape,
            lambda: self._query().query,
            list(self.where.values()),
        )
        return Task.objects.using(alias).raw(self._by_index(sql, alias), params)

    def _by_index(self, sql: str, alias: str) -> str:
        """Have the rows read in the order of the index.

        MySQL and MariaDB have to be told: with a small LIMIT they take the index of
        `run_at` and read every task that has been due for longer.
        """
        if connections[alias].vendor != "mysql":
            return sql
        table = f"FROM {connections[alias].ops.quote_name(Task._meta.db_table)}"
        return sql.replace(table, f"{table} FORCE INDEX ({self.index})", 1)


class _Look:
    """One look at what is due: in which order, and which rows may be taken."""

    def __init__(
        self,
        names: Collection[str],
        queues: Collection[str],
        running: Collection[int],
        *,
        lock: bool,
    ) -> None:
        self._names = frozenset(names)
        self._queues = frozenset(queues)
        self._running = frozenset(running)
        self._lock = lock
        self._now = timezone.now()
        self._descending = app_settings.BACKGROUND_TASK_PRIORITY_ORDERING == "-"

    def next(self, n: int) -> list[Task]:
        """Return at most `n` tasks, the next one first."""
        if not self._queues:
            return self._of_lane({}, BY_PRIORITY, n)
        found: list[Task] = []
        for queue in self._queues:
            found += self._of_lane({"queue": queue}, BY_QUEUE, n)
        return sorted(found, key=self._order)[:n]

    def _order(self, task: Task) -> tuple[int, datetime]:
        return -task.priority if self._descending else task.priority, task.run_at

    def _of_lane(self, lane: dict[str, Any], index: str, n: int) -> list[Task]:
        """Step down the priorities; give up after some, and ask for each name.

        Each step costs two short statements, whatever waits there.
        """
        found: list[Task] = []
        priorities = _distinct(lane, "priority", index, descending=self._descending)
        for step, priority in enumerate(priorities):
            tasks = None
            if step < _PRIORITIES:
                level = {**lane, "priority": priority}
                tasks = self._of_priority(level, index, n - len(found))
            if tasks is None:
                taken = {task.pk for task in found}
                return found + self._of_each_name(lane, taken, n - len(found))
            found += tasks
            if len(found) == n:
                break
        return found

    def _of_priority(
        self, level: dict[str, Any], index: str, n: int
    ) -> list[Task] | None:
        """Return the tasks of one priority; None if too many unknown ones lead."""
        due = {**level, "run_at__lte": self._now}
        tasks = _Waiting(index, due, "run_at", n, lock=self._lock).read()
        if all(map(self._knows, tasks)):
            return tasks
        passed_by = _Waiting(
            index, due, "run_at", _PASSED_BY, only=("task_name", "queue")
        )
        front = passed_by.read()
        known = [task.pk for task in front if self._knows(task)][:n]
        if len(known) < n and len(front) == _PASSED_BY:
            return None
        return self._of_keys(known)

    def _of_each_name(
        self, lane: dict[str, Any], taken: set[int], n: int
    ) -> list[Task]:
        """Return the most urgent of those that have been due the longest, by name."""
        best: list[Task] = []
        for name in self._names:
            due = {**lane, "run_at__lte": self._now, "task_name": name}
            only = ("priority", "run_at", "task_name", "queue")
            first = _Waiting(
                BY_NAME, due, "run_at", _OF_EACH_NAME + len(taken), only=only
            )
            tasks = [task for task in first.read() if task.pk not in taken]
            best += filter(self._knows, tasks)
        best.sort(key=self._order)
        return self._of_keys([task.pk for task in best[:n]])

    def _of_keys(self, pks: list[int]) -> list[Task]:
        """Return those that still wait; asked in SQL, SQLite would look by index."""
        rows = _tasks().filter(pk__in=pks)
        rows = rows.lock_unlocked_rows() if self._lock else rows
        waiting = [row for row in rows if not row.locked_by and not row.failed_at]
        return sorted(waiting, key=self._order)

    def _knows(self, task: Task) -> bool:
        """May it be taken? By name and queue to the letter: some databases are lax."""
        mine = not self._queues or task.queue in self._queues
        known = mine and task.task_name in self._names
        return known and task.pk not in self._running


def _tasks() -> TaskQuerySet:
    rows: TaskQuerySet = Task.objects.using(router.db_for_write(Task)).all()
    return rows


def _moment_of_claim() -> datetime:
    """Return now, but always later than last time.

    With the runner's id it names a try: a clock that is set back, or two claims in
    one microsecond, must not make two tries look like one.
    """
    global _last_claim
    now = timezone.now()
    if _last_claim is not None and now <= _last_claim:
        now = _last_claim + timedelta(microseconds=1)
    _last_claim = now
    return now
