"""How is it going: what waits, what is due, what runs, where, and what has failed?

What people and probes ask of the database, bounded however large the tables are: no
statement reads more than about `MOST` rows, each along one index, and a count that
would be higher stops there. So `MOST + 1` means "more than MOST"; see `count_text`.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.db import connections, router
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from . import claims, control, leases, names
from .indexes import WAITING
from .inuse import queues_of
from .models import CompletedTask, Control, Runner, Task
from .outages import UNREADABLE
from .plans import by_index
from .served import EVERYTHING, Served
from .states import CANCELLED

MOST = 10_000  # rows that are counted of one kind
_QUEUES = 200  # that are looked at, beside those in which something is late
_PRIORITIES = 16  # of one queue, whose due tasks are counted, of more than `MOST`
_NAMES = 5  # of failed tasks, or of unregistered ones, that are told
# So long a due task may have a name that is not registered here: in a deploy, or with
# another project in the same table, somebody else's runner takes it before.
FOR_OTHERS = timedelta(minutes=1)
_HUNDRED_YEARS = timedelta(days=36_525)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What is in one queue, or in none: the counts go up to `MOST + 1`."""

    name: str | None
    waiting: int = 0  # with what is due, and what is to be tried again
    due: int = 0
    oldest_due: datetime | None = None
    running: int = 0
    retrying: int = 0  # of the waiting: they have failed before
    abandoned: int = 0  # given up in place, and not among the waiting
    paused_by: str | None = None
    paused_at: datetime | None = None

    @property
    def is_paused(self) -> bool:
        return self.paused_by is not None

    def age(self, now: datetime) -> float | None:
        """Return for how many seconds the oldest of what is due has been due."""
        if self.oldest_due is None:
            return None
        return max(0.0, (now - self.oldest_due).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A try that runs, as its runner has told of it: seconds and bytes."""

    task: int
    name: str
    title: str
    queue: str | None
    runner: str
    host: str
    pid: int | None
    attempt: int | None  # None: its row is gone, or was never read
    elapsed: float
    max_run_time: float | None
    memory: int | None
    memory_limit: int | None
    progress_done: int | None
    progress_total: int | None
    progress_message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerState:
    """A runner, as its row has it."""

    id: str
    host: str
    pid: int
    version: str
    started_at: datetime
    served: Served
    slots: int | None  # None: an older version's
    used: int  # tasks that it has locked, no more than its slots
    seen_ago: float | None  # seconds, by the database's clock
    is_stale: bool  # its lease has run out
    is_draining: bool
    running: list[Running]

    @property
    def is_serving(self) -> bool:
        """Does it live, and take tasks?"""
        return not self.is_stale and not self.is_draining


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregistered:
    """Due tasks of a name that no `tasks` module here has."""

    name: str
    due: int
    is_all: bool  # else there may be more


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What came to its end lately.

    Of what failed for good or was cancelled the newest `MOST` are counted.
    """

    in_hour: int  # well or badly, up to `MOST + 1`
    failed_in_hour: int
    failed_in_day: int
    cancelled_in_hour: int
    cancelled_in_day: int
    hour_is_all: bool  # else there are more that failed, or were cancelled
    day_is_all: bool
    failed_names: list[tuple[str, int]]  # in the day, the most frequent ones first


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How it is going, at one moment."""

    now: datetime
    queues: list[Queue]
    paused: list[Control]
    runners: list[RunnerState]
    unregistered: list[Unregistered] | None  # None: the project can't be imported
    ended: Ended


def status() -> Status:
    """Return how it is going."""
    now = timezone.now()
    with by_index(_database()):
        return Status(
            now=now,
            queues=queues(now),
            paused=list(control.paused()),
            runners=runners(),
            unregistered=unregistered(now),
            ended=ended(now),
        )


def count_text(n: int) -> str:
    """Return a count as people read it: `10000+` if there are more than were read."""
    return f"{MOST}+" if n > MOST else str(n)


# Queues


def queues(now: datetime, only: Collection[str] | None = None) -> list[Queue]:
    """Return what is in each queue in which something waits or runs; none comes first.

    `only` those, if they are named; they are returned even if nothing is in them.
    """
    with by_index(_database()):
        late = _ask_late(now)
        names = list(only) if only is not None else _names(late)
        held = _counted(_tasks().filter(locked_by__gt=""), lambda row: True)
        abandoned = _counted(
            _tasks().filter(failed_at__gt=now - _HUNDRED_YEARS), lambda row: True
        )
        retrying = _counted(_tasks().filter(attempts__gt=0), _waits)
        paused = list(control.paused())
        return [
            _queue(
                name,
                now,
                late,
                held,
                abandoned,
                retrying,
                control.pause_of(name, paused),
            )
            for name in names
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Late:
    """What has been due for longest, whatever its queue and priority are."""

    due: Counter[str | None]  # how many, by queue
    first: dict[str | None, int]  # the one that was due first, by queue
    is_all: bool  # else there are more


def _ask_late(now: datetime) -> _Late:
    """Read the first `MOST` rows whose moment has come, and take those that wait.

    Which of them wait is not asked of the database: SQLite and MariaDB would go by an
    index of that, and sort all that wait.
    """
    due: Counter[str | None] = Counter()
    first: dict[str | None, int] = {}
    rows = _tasks().filter(run_at__lte=now).order_by("run_at")
    found = list(rows.values_list("queue", "pk", "locked_by", "failed_at")[: MOST + 1])
    for queue, pk, locked_by, failed_at in found:
        if locked_by is None and failed_at is None:
            due[queue] += 1
            first.setdefault(queue, pk)
    return _Late(due=due, first=first, is_all=len(found) <= MOST)


def _queue(
    name: str | None,
    now: datetime,
    late: _Late,
    held: Counter[str | None],
    abandoned: Counter[str | None],
    retrying: Counter[str | None],
    pause: Control | None,
) -> Queue:
    lane = _tasks().filter(WAITING).filter(queue=name)
    due, oldest = _due(name, lane, late, now)
    return Queue(
        name=name,
        waiting=max(_count(lane), due),
        due=due,
        oldest_due=oldest,
        running=held[name],
        retrying=retrying[name],
        abandoned=abandoned[name],
        paused_by=pause.by if pause else None,
        paused_at=pause.at if pause else None,
    )


def _names(late: _Late) -> list[str | None]:
    """Return the queues that tasks are in, no queue first.

    The first ones by name, and all of those in which something is late.
    """
    found: list[str | None] = [None] if _tasks().filter(queue=None).exists() else []
    named = {*queues_of(_tasks(), _QUEUES), *late.due}
    return [*found, *sorted(name for name in named if name is not None)]


def _due(
    name: str | None, lane: QuerySet[Task], late: _Late, now: datetime
) -> tuple[int, datetime | None]:
    """Return how many tasks of a queue are due, and since when the first one is."""
    count = late.due[name]
    moments = _moments(_tasks().filter(pk=late.first.get(name)))
    if not late.is_all:
        more, others = _due_by_priority(lane, now)
        count = max(count, more)
        moments += others
    return count, min(moments, default=None)


def _moments(rows: QuerySet[Task]) -> list[datetime]:
    """Return the first one's `run_at`; nothing for a moment that Python has not."""
    with contextlib.suppress(*UNREADABLE):
        return list(rows.values_list("run_at", flat=True)[:1])
    return []


def _due_by_priority(lane: QuerySet[Task], now: datetime) -> tuple[int, list[datetime]]:
    """Return how many tasks of a queue are due, and moments since which they are.

    Priority by priority, since what is due is together in the index there.
    """
    count = 0
    moments: list[datetime] = []
    for priority in islice(_priorities(lane), _PRIORITIES):
        level = lane.filter(priority=priority, run_at__lte=now)
        rows = level.order_by(*_order("priority", "run_at"))
        moments += _moments(rows)
        count = min(count + rows[: MOST + 1].count(), MOST + 1)
    return count, moments


def _priorities(lane: QuerySet[Task]) -> Iterator[int]:
    """Yield the priorities in a queue in their order, one statement for each."""
    values = lane.order_by(*_order("priority")).values_list("priority", flat=True)
    found = list(values[:1])
    while found:
        yield found[0]
        found = list(values.filter(priority__gt=found[0])[:1])


def _order(*columns: str) -> tuple[str, ...]:
    """Return how to sort one queue's tasks along their index.

    PostgreSQL takes no order from `queue IS NULL`, and MariaDB sorts if it is told it.
    """
    is_told = connections[_database()].vendor == "postgresql"
    return ("queue", *columns) if is_told else columns


def _counted(rows: QuerySet[Task], counts: Any) -> Counter[str | None]:
    """Count rows by queue, all of them if there are more than were read."""
    found = list(rows.values_list("queue", "locked_by", "failed_at")[: MOST + 1])
    by_queue = Counter(row[0] for row in found if counts(row))
    if len(found) > MOST:
        return Counter(dict.fromkeys(by_queue, MOST + 1))
    return by_queue


def _waits(row: tuple[Any, ...]) -> bool:
    _, locked_by, failed_at = row
    return not locked_by and failed_at is None


def _count(rows: QuerySet[Task]) -> int:
    return rows.order_by()[: MOST + 1].count()


# Runners


def runners() -> list[RunnerState]:
    """Return the runners that have a row, by host."""
    rows = list(_runners())
    if not rows:
        return []
    tasks = _running_tasks(rows)
    held = Counter(
        _tasks()
        .filter(locked_by__in=[row.pk for row in rows])
        .values_list("locked_by", flat=True)[: MOST + 1]
    )
    return [_runner(row, tasks, held[row.pk]) for row in rows]


def _runners() -> QuerySet[Runner]:
    rows = leases.with_trust(Runner._base_manager.using(_database()))
    return rows.order_by("host", "started_at")


def _runner(row: Any, tasks: dict[int, Task], held: int) -> RunnerState:
    return RunnerState(
        id=row.pk,
        host=row.host,
        pid=row.pid,
        version=row.version,
        started_at=row.started_at,
        served=row.served,
        slots=row.slots,
        used=held if row.slots is None else min(held, row.slots),
        seen_ago=leases.silent(row),
        is_stale=not row.is_alive,
        is_draining=bool(row.draining),
        running=[_running(row, shown, tasks) for shown in row.running or []],
    )


def _running_tasks(rows: Iterable[Runner]) -> dict[int, Task]:
    shown = {one["task"] for row in rows for one in row.running or []}
    only = "task_name", "verbose_name", "queue", "attempts"
    progress = "progress_done", "progress_total", "progress_message"
    found: dict[int, Task] = _tasks().only(*only, *progress).in_bulk(list(shown)[:MOST])
    return found


def _running(row: Runner, shown: dict[str, Any], tasks: dict[int, Task]) -> Running:
    known = tasks.get(shown["task"])
    task = known or Task()
    return Running(
        task=shown["task"],
        name=shown["name"],
        title=str(known) if known else shown["name"],
        queue=task.queue,
        runner=row.pk,
        host=row.host,
        pid=shown["pid"],
        attempt=known.attempts + 1 if known else None,
        elapsed=max(0.0, time.time() - shown["began"]),
        max_run_time=shown["seconds"],
        memory=shown["held"],
        memory_limit=shown["memory"],
        progress_done=task.progress_done,
        progress_total=task.progress_total,
        progress_message=task.progress_message,
    )


def unserved(queue: Queue, running: Collection[RunnerState]) -> bool:
    """Is something due in a queue that no living runner serves?"""
    serving = (one for one in running if one.is_serving)
    return queue.due > 0 and not any(queue.name in one.served for one in serving)


# Names


def unregistered(
    since: datetime, queues: Collection[str] | None = None, *, paused: bool = True
) -> list[Unregistered] | None:
    """Return of which names tasks are due that no `tasks` module here has.

    Those that have been due `since` then, in these queues, or in all; in `paused` ones
    too, or not. None: the project can't be imported. About twenty names are looked at,
    and `MOST` tasks in all, or one of each name where those are read.
    """
    known = names.registered()
    if known is None:
        return None
    with by_index(_database()):
        pauses = [] if paused else list(control.paused())
        found, left = [], MOST
        for name in sorted(claims.unknown_names(known, EVERYTHING)):
            rows = _tasks().filter(WAITING, task_name=name, run_at__lte=since)
            columns = rows.order_by("run_at").values_list("task_name", "queue")
            most = max(left, 1)
            due = list(columns[: most + 1])
            left -= len(due)
            n = sum(
                called == name  # to the letter, which some databases do not mind
                and (queues is None or queue in queues)
                and not control.pause_of(queue, pauses)
                for called, queue in due[:most]
            )
            is_all = len(due) <= most
            found += [Unregistered(name=name, due=n, is_all=is_all)] if n else []
    return sorted(found, key=lambda one: (-one.due, one.name))


def unregistered_text(found: Collection[Unregistered]) -> str:
    """Return a sentence, without its end, on what `unregistered` has found."""
    due = sum(one.due for one in found)
    more = "" if all(one.is_all for one in found) else "+"
    told = ", ".join(one.name for one in list(found)[:_NAMES])
    if len(found) > _NAMES:
        told = _("%(names)s and others") % {"names": told}
    return ngettext(
        "%(n)s due task is of a name that no tasks.py here registers: %(names)s",
        "%(n)s due tasks are of names that no tasks.py here registers: %(names)s",
        due,
    ) % {"n": f"{due}{more}", "names": told}


# What has ended


def ended(now: datetime) -> Ended:
    """Return what came to its end in the last hour and the last day."""
    hour, day = now - timedelta(hours=1), now - timedelta(days=1)
    with by_index(_database()):
        rows = CompletedTask.objects.using(_database())
        bad: list[tuple[Any, str, str]] = list(
            rows.filter(failed_at__gt=day)
            .order_by("-failed_at")
            .annotate(begin=Left("last_error", len(CANCELLED)))
            .values_list("failed_at", "task_name", "begin")[: MOST + 1]
        )
        in_hour = rows.filter(run_at__gt=hour).order_by()[: MOST + 1].count()
    day_is_all = len(bad) <= MOST
    hour_is_all = day_is_all or bad[MOST][0] <= hour
    failed = [(at, name) for at, name, begin in bad[:MOST] if begin != CANCELLED]
    cancelled = [at for at, _, begin in bad[:MOST] if begin == CANCELLED]
    return Ended(
        in_hour=in_hour,
        failed_in_hour=sum(at > hour for at, _ in failed),
        failed_in_day=len(failed),
        cancelled_in_hour=sum(at > hour for at in cancelled),
        cancelled_in_day=len(cancelled),
        hour_is_all=hour_is_all,
        day_is_all=day_is_all,
        failed_names=Counter(name for _, name in failed).most_common(_NAMES),
    )


# The database


def _tasks() -> Any:
    return Task.objects.using(_database())


def _database() -> str:
    return router.db_for_write(Task)
