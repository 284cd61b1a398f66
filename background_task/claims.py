"""Which tasks may a runner take, and how does it take them so that nobody else does?

Correctness is one guarded UPDATE on every database: still unlocked? Then mine.
`SKIP LOCKED`, where the database has it, is a courtesy that keeps runners from queuing
behind one another. This is the only module where databases differ.
"""

import logging
from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import connections, router
from django.utils import timezone

from . import books, leases
from .managers import TaskQuerySet
from .models import Task
from .outages import UNREADABLE

logger = logging.getLogger("background_task.tasks")

_last_claim: datetime | None = None


_SHOWN = 20


def choose(names: Collection[str], queues: Collection[str]) -> TaskQuerySet:
    """Return the due tasks of these names that nobody holds, the next one first.

    Of these queues only, or of every queue and of none if none is named. Names that
    are unknown here are left alone: another runner may know them.
    """
    return _due(queues).exactly("task_name", names).in_order()


def unknown_names(names: Collection[str], queues: Collection[str]) -> set[str]:
    """Return at most twenty other names of tasks that are due in these queues."""
    others = _due(queues).with_other("task_name", names).order_by()
    return set(others.values_list("task_name", flat=True).distinct()[:_SHOWN])


def _due(queues: Collection[str]) -> TaskQuerySet:
    now = timezone.now()
    tasks: TaskQuerySet = Task.objects.using(router.db_for_write(Task)).all()
    tasks = tasks.unlocked(now).due(now)
    return tasks.exactly("queue", queues) if queues else tasks


def claim(
    runner_id: str, names: Collection[str], queues: Collection[str], n: int
) -> list[Task]:
    """Lock at most `n` tasks for a runner and return them, the next one first.

    Called inside a transaction. Raises LeaseLost when the runner is not trusted any
    more: what it would take might be taken for lost at once.
    """
    leases.hold(runner_id)
    database = router.db_for_write(Task)
    chosen = choose(names, queues)
    features = connections[database].features
    if features.has_select_for_update:
        of = ("self",) if features.has_select_for_update_of else ()
        skip = features.has_select_for_update_skip_locked
        chosen = chosen.select_for_update(skip_locked=skip, of=of)
    tasks = _read(chosen[:n])
    if not tasks:
        return []
    locked_at = _moment_of_claim()
    rows: TaskQuerySet = Task.objects.using(database).filter(
        pk__in=[task.pk for task in tasks]
    )
    taken = rows.unlocked(timezone.now()).update(
        locked_by=runner_id, locked_at=locked_at
    )
    if taken < len(tasks):
        mine = set(
            rows.filter(locked_by=runner_id, locked_at=locked_at).values_list(
                "pk", flat=True
            )
        )
        tasks = [task for task in tasks if task.pk in mine]
    for task in tasks:
        task.locked_by, task.locked_at = runner_id, locked_at
    return tasks


def _read(chosen: TaskQuerySet) -> list[Task]:
    """Return these tasks; what Python can't read is abandoned first."""
    while True:
        try:
            return list(chosen.all())
        except UNREADABLE:
            if not books.set_aside_unreadable(chosen):
                raise


def reclaim_pids() -> int:
    """Unlock what is locked by a bare pid, and say how many tasks that were.

    A pid names no host: only a person can know that no runner of 1.2.8 and no
    in-process runner is left. Costs no attempt, as when such a lock expires.
    """
    rows: TaskQuerySet = Task.objects.using(router.db_for_write(Task)).filter(
        locked_by__regex=r"^[0-9]+$"
    )
    reclaimed = rows.update(locked_by=None, locked_at=None)
    logger.warning("Tasks unlocked that were locked by a bare pid: %s", reclaimed)
    return reclaimed


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
