"""Which tasks may a runner take, and how does it take them so that nobody else does?

Correctness is one guarded UPDATE on every database: still unlocked? Then mine.
`SKIP LOCKED`, where the database has it, is a courtesy that keeps runners from queuing
behind one another. This is the only module where databases differ.

The cost of a claim does not grow with the tables: every statement reads a bounded part
of one index (docs/decisions/0011-claims-that-do-not-grow.md has the plans). Tasks of
other queues are never seen, future ones are stepped over a priority at a time, and
those of unknown names are passed by in Python up to a limit, by name beyond it. Where
some queues are excluded, the others that have tasks are found first.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, router
from django.db.models import Exists, OuterRef, Value
from django.db.models.functions import Coalesce
from django.db.models.sql import UpdateQuery
from django.utils import timezone

from . import books, inuse, leases, plans
from .compiled import statement
from .indexes import BY_NAME, BY_PRIORITY, BY_QUEUE, WAITING
from .managers import TaskQuerySet
from .models import HELD_BY_PID, Runner, Task
from .outages import is_unreadable
from .served import Served
from .settings import app_settings

logger = logging.getLogger("background_task.tasks")

_last_claim: datetime | None = None

# For a connection that claims. Before a burst of tasks has been analyzed PostgreSQL
# thinks that next to nothing waits, and sorts it all: 100 ms for each 100,000 tasks.
SESSION = {"postgresql": tuple(f"SET {setting} = off" for setting in plans.OFF)}

_PLANNED = 50  # next tasks among which one of the queues served is looked for
_SHOWN = 20  # unknown names that are told of
_PRIORITIES = 16  # that a look steps down, per queue
_PASSED_BY = 500  # due tasks of one priority that a look reads past unknown names
_QUEUES = 32  # with tasks, that are looked at one by one where some are excluded
_OF_EACH_NAME = 50  # due the longest, among which the most urgent is found beyond that


def claim(
    runner_id: str,
    names: Collection[str],
    wanted: Mapping[Served, int],
    running: Collection[int] = (),
) -> list[Task]:
    """Lock due tasks for a runner and return them, the next one of each kind first.

    `wanted` says how many at most of which queues, no queue twice. Names that are
    unknown here are left alone: another runner may know them. So are the `running`,
    whatever their rows say: somebody may have unlocked them. Called inside a
    transaction. Raises LeaseLost when the runner is not trusted any more: what it would
    take might be taken for lost at once.
    """
    leases.hold(runner_id)
    tasks = [
        task
        for served, n in wanted.items()
        for task in _Look(names, served, running, lock=True).next(n)
    ]
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


def claim_one(runner_id: str, pk: int, attempts: int) -> Task | None:
    """Lock one task, due or not, for a runner; None if it is not free.

    Nor if it was tried meanwhile: `attempts` tries were recorded before. For the rest
    as `claim`.
    """
    leases.hold(runner_id)
    locked_at = _moment_of_claim()
    if not is_free(pk, attempts) or not _lock([pk], runner_id, locked_at):
        return None
    mine = {"attempts": attempts, "locked_by": runner_id, "locked_at": locked_at}
    return _tasks().filter(pk=pk, **mine).first()


def is_free(pk: int, attempts: int) -> bool:
    """Does a task wait that has been tried so often?"""
    return _tasks().filter(WAITING, pk=pk, attempts=attempts).exists()


def may_be_due(names: Collection[str], served: Served) -> bool:
    """Look, without locking anything, whether a claim would find something."""
    return bool(_Look(names, served, (), lock=False).next(1))


def next_run_at(within: float, served: Collection[Served]) -> datetime | None:
    """Return when a first task that is not due yet has to be looked for; of any name.

    None if that is not within so many seconds: later moments may be none that Python
    knows, such as PostgreSQL's infinity. Tasks of other queues are passed by; of very
    many the last that was read is returned, to read on from there by then.
    """
    now = timezone.now()
    later = _tasks().filter(run_at__gt=now, run_at__lte=now + timedelta(seconds=within))
    later = later.order_by("run_at")
    if any(one.everything for one in served):
        return later.values_list("run_at", flat=True).first()
    planned = list(later.values_list("run_at", "queue")[:_PLANNED])
    for run_at, queue in planned:
        if any(queue in one for one in served):
            return run_at
    return planned[-1][0] if len(planned) == _PLANNED else None


def unknown_names(names: Collection[str], served: Served) -> set[str]:
    """Return some other names of tasks that are due in these queues, about twenty."""
    due = {"run_at__lte": timezone.now()}
    is_lax = connections[router.db_for_write(Task)].vendor == "mysql"
    unknown: set[str] = set()
    for name in _distinct({}, "task_name", BY_NAME):
        if name not in names or is_lax:
            # There, other names may be this one to the collation.
            for lane in [{"queue": queue} for queue in served.queues] or [{}]:
                alike = {**due, **lane, "task_name": name}
                front = _Waiting(
                    BY_NAME,
                    alike,
                    ("run_at",),
                    _OF_EACH_NAME,
                    only=("task_name",),
                    excluded=served.excluded,
                )
                unknown |= {task.task_name for task in front.read()} - set(names)
        if len(unknown) >= _SHOWN:
            break
    return unknown


def unused_queues(queues: Iterable[str]) -> set[str]:
    """Return those of these queues that no task is in, be it waiting or completed."""
    return {queue for queue in queues if not inuse.is_used(queue=queue)}


def free_expired() -> int:
    """Unlock what has been locked for MAX_RUN_TIME and is no runner's; return how many.

    The rule of 1.2.8, for the locks of its runners and of in-process runners.
    """
    since = timezone.now() - app_settings.lock_lifetime
    rows = _tasks().filter(locked_at__lt=since)
    held = Runner._base_manager.filter(pk=OuterRef("locked_by"))
    return rows.exclude(Exists(held)).update(**books.UNLOCKED)


def reclaim_pids() -> int:
    """Unlock what is locked by a bare pid, and say how many tasks that were.

    A pid names no host: only a person can know that no runner of 1.2.8 and no
    in-process runner is left. Costs no attempt, as when such a lock expires.
    """
    reclaimed = _tasks().filter(HELD_BY_PID).update(**books.UNLOCKED)
    logger.warning("Tasks unlocked that were locked by a bare pid: %s", reclaimed)
    return reclaimed


def _distinct(
    where: dict[str, Any],
    field: str,
    index: str,
    *,
    descending: bool = False,
    least: str | None = None,
) -> Iterator[Any]:
    """Yield the values of a column in order: one step in an index for each.

    The databases' own DISTINCT reads every row. NULL is left out if the `least` value
    is named, and has to be left out.
    """
    beyond = f"{field}__{'lt' if descending else 'gt'}"
    order = _order(where, field, descending=descending)
    # Not as one more condition of the next steps: SQLite would begin there each time.
    begin = where if least is None else {**where, f"{field}__gte": least}
    first = _Waiting(index, begin, order, n=1, only=(field,))
    found = first.read()
    while found:
        value = getattr(found[0], field)
        yield value
        found = replace(first, where={**where, beyond: value}).read()


def _order(
    where: dict[str, Any], field: str, *, descending: bool = False
) -> tuple[str, ...]:
    """Return how to sort by a column, of what `where` has left, along an index.

    PostgreSQL takes no order from `IS NULL`: what is NULL has to be named. MariaDB
    would sort then.
    """
    fields = [field]
    if _NO_QUEUE.keys() <= where.keys():
        is_named = connections[router.db_for_write(Task)].vendor == "postgresql"
        fields = ["queue", field] if is_named else fields
    return tuple(f"-{each}" if descending else each for each in fields)


_NO_QUEUE = {"queue__isnull": True}


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The first few of the tasks that wait, as they stand in an index.

    `where` are lookups of single values; `only` these columns, if any, are read. Tasks
    of the queues that are `excluded` are read past, however many there are.
    """

    index: str
    where: dict[str, Any]
    order: tuple[str, ...]
    n: int
    only: tuple[str, ...] = ()
    lock: bool = False
    excluded: frozenset[str | None] = frozenset()

    def read(self) -> list[Task]:
        """Return the rows; what Python can't read is abandoned first."""
        while True:
            try:
                rows = list(self._rows())
                books.look_at_kinds(rows)
                return rows
            except Exception as error:
                if not is_unreadable(error):
                    raise
                if not books.set_aside_unreadable(self._query()):
                    raise

    def _query(self) -> TaskQuerySet:
        rows = _tasks().filter(WAITING).order_by(*self.order)
        for lookup, value in self.where.items():  # one by one, in this order
            rows = rows.filter(**{lookup: value})
        if None in self.excluded:
            rows = rows.filter(queue__isnull=False)
        if queues := self._excluded_queues():
            rows = rows.exclude(queue__in=queues)
        rows = rows.lock_unlocked_rows() if self.lock else rows
        return (rows.only(*self.only) if self.only else rows)[: self.n]

    def _rows(self) -> Iterable[Task]:
        alias = router.db_for_write(Task)
        queues = self._excluded_queues()
        excluded = None in self.excluded, len(queues)
        shape = (
            *self.where,
            self.index,
            self.order,
            self.n,
            self.only,
            self.lock,
            excluded,
        )
        values = [v for k, v in self.where.items() if k not in _NO_QUEUE]
        sql, params = statement(
            connections[alias], shape, lambda: self._query().query, [*values, *queues]
        )
        return Task.objects.using(alias).raw(self._by_index(sql, alias), params)

    def _excluded_queues(self) -> list[str]:
        return sorted(queue for queue in self.excluded if queue is not None)

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
        served: Served,
        running: Collection[int],
        *,
        lock: bool,
    ) -> None:
        self._names = frozenset(names)
        self._served = served
        self._running = frozenset(running)
        self._lock = lock
        self._now = timezone.now()
        self._descending = app_settings.BACKGROUND_TASK_PRIORITY_ORDERING == "-"
        self._past: frozenset[str | None] = frozenset()  # queues that are read past

    def next(self, n: int) -> list[Task]:
        """Return at most `n` tasks, the next one first."""
        if self._served.everything:
            return self._of_lane({}, BY_PRIORITY, n)
        lanes = self._lanes()
        if len(lanes) > _QUEUES and not self._served.queues:
            self._past = self._served.excluded
            return self._of_lane({}, BY_PRIORITY, n)
        found: list[Task] = []
        for lane in lanes:
            found += self._of_lane(lane, BY_QUEUE, n)
        return sorted(found, key=self._order)[:n]

    def _lanes(self) -> list[dict[str, Any]]:
        """Return where to look, queue by queue; of very many, some more than enough.

        Those that are not named are found among what waits. What has no queue is one.
        """
        served = self._served
        if served.queues:
            return [{"queue": queue} for queue in served.queues - served.excluded]
        lanes = [dict(_NO_QUEUE)] if None in served else []
        for queue in _distinct({}, "queue", BY_QUEUE, least=""):
            if queue in served:
                lanes.append({"queue": queue})
            if len(lanes) > _QUEUES:
                break
        return lanes

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
        order = _order(level, "run_at")
        tasks = _Waiting(
            index, due, order, n, lock=self._lock, excluded=self._past
        ).read()
        if all(map(self._knows, tasks)):
            return tasks
        only = ("task_name", "queue")
        passed_by = _Waiting(
            index, due, order, _PASSED_BY, only=only, excluded=self._past
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
                BY_NAME,
                due,
                ("run_at",),
                _OF_EACH_NAME + len(taken),
                only=only,
                excluded=self._past,
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
        known = task.queue in self._served and task.task_name in self._names
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
