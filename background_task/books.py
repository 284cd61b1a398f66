"""How a try enters the books: succeed, fail, release, abandon; one transaction each.

A try is named by its claim: the task, who locked it, and when. Every write is guarded
by it: a writer who comes late finds no such row, changes nothing and is told so. The
in-process runner and the supervisor's bookkeeper both write through this module.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self, cast

from django.db import Error, connections, router, transaction
from django.db.models import F
from django.utils import timezone

from . import retries
from .managers import TaskQuerySet
from .models import CompletedTask, Task, logger
from .outages import UNREADABLE, is_passing
from .signals import broadcast, task_failed, task_rescheduled, task_successful


class Claim(NamedTuple):
    """One try of a task."""

    pk: int
    locked_by: str
    locked_at: datetime

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the claim under which `task` is held; NULLs match an unheld one."""
        return cls(task.pk, cast(str, task.locked_by), cast(datetime, task.locked_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What was recorded about a try.

    `task` is as its row is now or, if it has come to its end, as it last was, this
    try counted. `completed` is None if the task is to be tried again, `repetition` is
    None if it does not repeat.
    """

    task: Task
    completed: CompletedTask | None = None
    repetition: Task | None = None

    @classmethod
    def told(cls, pk: int, row: Task | CompletedTask) -> Self:
        """Return what is left to be told of the task `pk`, by its row of either kind.

        Of a task that has come to its end only the completed row is left.
        """
        if isinstance(row, Task):
            return cls(task=row)
        values = {
            field.attname: getattr(row, field.attname)
            for field in Task._meta.concrete_fields
            if field.attname != "id"
        }
        return cls(task=Task(id=pk, **values), completed=row)


def succeed(claim: Claim) -> Entry | None:
    """Complete a task, and plan its repetition; None if the claim holds no more."""
    with transaction.atomic(using=_database()):
        task = _locked(claim)
        if task is None:
            return None
        task.attempts += 1
        task.last_error = ""  # a former try's
        completed = task.create_completed_task()
        repetition = task.create_repetition()
        _claimed(claim).delete()
    return Entry(task=task, completed=completed, repetition=repetition)


def fail(claim: Claim, error: str, *, permanent: bool = False) -> Entry | None:
    """Plan another try, or complete the task as failed; None if the claim is gone.

    It fails for good if `permanent`, or with the last of MAX_ATTEMPTS tries.
    """
    with transaction.atomic(using=_database()):
        task = _locked(claim)
        if task is None:
            return None
        task.attempts += 1
        task.last_error = error
        if permanent or task.has_reached_max_attempts():
            return _give_up(claim, task)
        return _try_again(claim, task)


def release(claim: Claim) -> bool:
    """Give a task back, runnable at once, at no attempt's cost; return whether it was.

    For tries that were stopped for the runner's sake, or never began.
    """
    # A savepoint, if a transaction is open: a refusal must not undo what else is in it.
    with transaction.atomic(using=_database()):
        return bool(_claimed(claim).update(locked_by=None, locked_at=None))


def held_by(owner: str, *, skip_locked: bool = False) -> list[Claim]:
    """Return the claims that `owner` holds, by what their rows say.

    With `skip_locked`, in a transaction, they are locked, but for what another has
    locked. A `locked_at` that Python can't read is made NULL: it names no try.
    """
    rows: TaskQuerySet = Task.objects.using(_database()).filter(locked_by=owner)
    if skip_locked and connections[_database()].features.has_select_for_update:
        rows = rows.select_for_update(
            skip_locked=connections[
                _database()
            ].features.has_select_for_update_skip_locked
        )
    try:
        return _claims(rows)
    except UNREADABLE:
        for pk in list(rows.values_list("pk", flat=True)):
            _forget_unreadable_moment(rows.filter(pk=pk))
        return _claims(rows)


def _claims(rows: TaskQuerySet) -> list[Claim]:
    held = rows.only("pk", "locked_by", "locked_at")
    return [Claim.of(task) for task in held]


def _forget_unreadable_moment(row: TaskQuerySet) -> None:
    try:
        row.values_list("locked_at").first()
    except UNREADABLE as error:
        row.update(locked_at=None)
        logger.error("A task's locked_at was unreadable, now NULL: %s", error)


def set_aside_unreadable(rows: TaskQuerySet) -> list[int]:
    """Mark those of these tasks as failed that Python can't read; return their keys.

    They could be run by nobody, and would stop whoever reads them with others.
    """
    unreadable = []
    for pk in list(rows.values_list("pk", flat=True)):
        row: TaskQuerySet = Task.objects.using(_database()).filter(pk=pk)
        try:
            row.first()
        except UNREADABLE as error:
            text = f"Its row can't be read: {type(error).__name__}: {error}"
            logger.error("Task %s is abandoned. %s", pk, text)
            row.update(**_abandoned(text))
            unreadable.append(pk)
    return unreadable


def abandon(claim: Claim, error: str) -> bool:
    """Mark a task as failed where it is, never to be run; return whether it was.

    For a try whose end can be written in no other way, such as one whose row may not
    be deleted or whose error the database refuses: one UPDATE, of plain ASCII.
    """
    values = _abandoned(error)
    try:
        with transaction.atomic(using=_database()):
            return bool(_claimed(claim).update(attempts=F("attempts") + 1, **values))
    except Error as error_of_database:
        if is_passing(connections[_database()], error_of_database):
            raise
        # Its attempts may be as many as the column can hold: count no more.
        with transaction.atomic(using=_database()):
            return bool(_claimed(claim).update(**values))


def _abandoned(error: str) -> dict[str, Any]:
    text = error.replace("\x00", "\\x00").encode("ascii", "backslashreplace").decode()
    return {
        "failed_at": timezone.now(),
        "last_error": text,
        "locked_by": None,
        "locked_at": None,
    }


def announce(entry: Entry) -> None:
    """Send the signal of what was recorded; to be called after the commit."""
    if entry.completed is None:
        broadcast(task_rescheduled, Task, task=entry.task)
        return
    signal = task_failed if entry.completed.failed_at else task_successful
    broadcast(signal, Task, task_id=entry.task.pk, completed_task=entry.completed)


def _give_up(claim: Claim, task: Task) -> Entry:
    task.failed_at = timezone.now()
    logger.warning("Marking task %s as failed", task)
    completed = task.create_completed_task()
    _claimed(claim).delete()
    return Entry(task=task, completed=completed)


def _try_again(claim: Claim, task: Task) -> Entry:
    wait = retries.backoff(task.attempts)
    task.run_at = timezone.now() + wait
    task.locked_by = task.locked_at = None
    logger.warning("Rescheduling task %s for %s later at %s", task, wait, task.run_at)
    _claimed(claim).update(
        attempts=task.attempts,
        run_at=task.run_at,
        last_error=task.last_error,
        locked_by=None,
        locked_at=None,
    )
    return Entry(task=task)


def _database() -> str:
    return router.db_for_write(Task)


def _claimed(claim: Claim) -> TaskQuerySet:
    rows: TaskQuerySet = Task.objects.using(_database()).filter(**claim._asdict())
    return rows


def _locked(claim: Claim) -> Task | None:
    """Return the claimed task, its row locked until the transaction ends."""
    rows = _claimed(claim)
    if not connections[_database()].features.has_select_for_update:
        # SQLite: a transaction that begins with a read fails at once, without waiting,
        # if another writes before it does. So begin with a write that changes nothing.
        rows.update(locked_at=F("locked_at"))
    return rows.select_for_update().first()
