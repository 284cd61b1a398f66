"""How tries enter the books: succeed, fail, release, abandon; one transaction each.

A try is named by its claim: the task, who locked it, and when. Every write is guarded
by it: a writer who comes late finds no such row, changes nothing and is told so. The
in-process runner and the supervisor's bookkeeper both write through this module; the
bookkeeper many at once, in as many statements as for one.
"""

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar, cast

from django.db import Error, connections, router, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from . import compiled, logrecords, policies, repeats, wakeups
from .managers import TaskQuerySet
from .models import Attempt, CompletedTask, Task, logger
from .outages import is_passing, is_unreadable, say_no_values
from .settings import app_settings
from .signals import broadcast, task_failed, task_rescheduled, task_successful

_Row = TypeVar("_Row")

_PROGRESS = "progress_done", "progress_total", "progress_message"
# Characters. MariaDB's max_allowed_packet is 16 MiB, and one may be 4 bytes long.
_LONGEST_STATEMENT = 1_000_000
# What the columns hold that a claim, or a job made of it, goes by.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("task_name", "task_params"), str),
    **dict.fromkeys(("queue", "verbose_name"), str | None),
    **dict.fromkeys(("priority", "attempts", "repeat"), int),
    "run_at": datetime,
    **dict.fromkeys(("repeat_until", "repeat_from"), datetime | None),
    "max_run_time": float | None,
}
# What a row is that nobody holds any more.
UNLOCKED: dict[str, Any] = dict.fromkeys(("locked_by", "locked_at", *_PROGRESS))


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
    attempt: Mapping[str, Any] | None = None  # its columns

    @classmethod
    def told(cls, pk: int, row: Task | CompletedTask) -> Self:
        """Return what is left to be told of the task `pk`, by its row of either kind.

        Of a task that has come to its end only the completed row is left.
        """
        if isinstance(row, Task):
            return cls(task=row)
        names = [field.attname for field in Task._meta.concrete_fields]
        values = [pk if name == "id" else getattr(row, name, None) for name in names]
        task = Task.from_db(row._state.db, names, values)
        return cls(task=task, completed=row)


class Ending(NamedTuple):
    """How a try ended: well if there is no error."""

    claim: Claim
    error: str | None = None
    permanent: bool = False  # not to be tried again, however few tries there were
    evidence: Mapping[str, Any] | None = None  # columns of `Attempt`, if it is to be


def succeed(claim: Claim) -> Entry | None:
    """Complete a task, and plan its repetition; None if the claim holds no more."""
    return record([Ending(claim)])[0]


def fail(claim: Claim, error: str, *, permanent: bool = False) -> Entry | None:
    """Plan another try, or complete the task as failed; None if the claim is gone.

    It fails for good if `permanent`, or with the last of MAX_ATTEMPTS tries.
    """
    return record([Ending(claim, error, permanent)])[0]


def record(endings: Sequence[Ending]) -> list[Entry | None]:
    """Enter how each of these tries ended; None for each whose claim holds no more.

    All or none: an ending that the database refuses undoes the rest.
    """
    with transaction.atomic(using=_database()):
        tasks = _locked([ending.claim for ending in endings])
        entries = {
            ending.claim: _entered(tasks[ending.claim], ending)
            for ending in endings
            if ending.claim in tasks
        }
        _write(list(entries.values()))
    return [entries.get(ending.claim) for ending in endings]


def release(claim: Claim) -> bool:
    """Give a task back, runnable at once, at no attempt's cost; return whether it was.

    For tries that were stopped for the runner's sake, or never began.
    """
    return bool(release_all([claim]))


def release_all(claims: Collection[Claim]) -> dict[Claim, Task]:
    """Give tasks back, as `release` does; return those that were, as they were."""
    # A savepoint, if a transaction is open: a refusal must not undo what else is in it.
    with transaction.atomic(using=_database()):
        tasks = _locked(claims)
        _of(tasks.values()).update(**UNLOCKED)
        for queue in {task.queue for task in tasks.values()}:
            wakeups.notify(queue, _database())  # another runner may take them
    return tasks


def have_due(tasks: QuerySet[Task], now: datetime) -> int:
    """Have tasks be due now, if they are not yet; return how many there are.

    What is due keeps its moment, and so its turn. What was given up in place has none:
    it begins to wait now. A chain of repeats goes on from where the row was planned.
    """
    due = tasks.filter(run_at__lte=now, failed_at=None).count()
    later = tasks.filter(Q(run_at__gt=now) | ~Q(failed_at=None))
    planned = later.filter(repeat__gt=Task.NEVER, repeat_from=None)
    planned.exclude(_backing_off(now)).update(repeat_from=F("run_at"))
    return due + later.update(run_at=now)


def _backing_off(now: datetime) -> Q:
    """The end of a back-off is no planned moment: it would run then once more."""
    return Q(attempts__gt=0, failed_at=None, run_at__gt=now)


def begun_ahead(claim: Claim) -> None:
    """Of a try that ended: it was claimed by its id, perhaps before it was due.

    Called in a transaction, before `record`. The planned moment is still to come.
    """
    early = _claimed(claim).filter(run_at__gt=claim.locked_at)
    have_due(early, claim.locked_at)


def held_by(owner: str, *, skip_locked: bool = False) -> list[Claim]:
    """Return the claims that `owner` holds, by what their rows say.

    With `skip_locked`, in a transaction, they are locked, but for what another has
    locked. A `locked_at` that Python can't read is made NULL: it names no try.
    """
    rows: TaskQuerySet = Task.objects.using(_database()).filter(locked_by=owner)
    if skip_locked:
        rows = rows.lock_unlocked_rows()
    try:
        return _claims(rows)
    except Exception as error:
        if not is_unreadable(error):
            raise
        for pk in list(rows.values_list("pk", flat=True)):
            _forget_unreadable_moment(rows.filter(pk=pk))
        return _claims(rows)


def _claims(rows: TaskQuerySet) -> list[Claim]:
    held = rows.only("pk", "locked_by", "locked_at")
    return [Claim.of(task) for task in held]


def _forget_unreadable_moment(row: TaskQuerySet) -> None:
    try:
        row.values_list("locked_at").first()
    except Exception as error:
        if not is_unreadable(error):
            raise
        say_no_values(error)
        row.update(locked_at=None)
        logger.error("A task's locked_at was unreadable, now NULL: %s", error)


def look_at_kinds(tasks: Iterable[Task]) -> None:
    """Raise TypeError for a task whose columns hold what is of another kind.

    SQLite stores it, if somebody has written it past Django; other databases refuse.
    """
    if connections[_database()].vendor != "sqlite":
        return
    for task in tasks:
        for name, kind in _KINDS.items():
            is_read = name in task.__dict__
            if is_read and not isinstance(getattr(task, name), kind):
                raise TypeError(f"{name} is not of the kind that its column is of")


def set_aside_unreadable(rows: TaskQuerySet) -> list[int]:
    """Mark those of these tasks as failed that Python can't read; return their keys.

    They could be run by nobody, and would stop whoever reads them with others.
    """
    unreadable = []
    for pk in list(rows.values_list("pk", flat=True)):
        row: TaskQuerySet = Task.objects.using(_database()).filter(pk=pk)
        try:
            look_at_kinds(list(row))
        except Exception as error:
            if not is_unreadable(error):
                raise
            say_no_values(error)
            text = f"Its row can't be read: {type(error).__name__}: {error}"
            logger.error("Task %s is abandoned. %s", pk, text)
            row.update(**_abandoned(text))
            unreadable.append(pk)
    return unreadable


def abandon(claim: Claim, error: str, *, succeeded: bool = False) -> bool:
    """Mark a task as failed where it is, never to be run; return whether it was.

    For a try whose end can be written in no other way, such as one whose row may not
    be deleted or whose error the database refuses: one UPDATE, of plain ASCII. If its
    chain of repeats goes on after such an end, the repetition is saved along with it,
    or, if that is refused too, nothing but the UPDATE is written.
    """
    values = _abandoned(error)
    counted = values | {"attempts": F("attempts") + 1}
    if _goes_on(succeeded=succeeded):
        try:
            with transaction.atomic(using=_database()):
                return _abandon_and_repeat(claim, counted)
        except Exception as refusal:  # by a receiver too, or its row can't be read
            if is_passing(connections[_database()], refusal):
                raise
            logger.error(
                "Task %s is abandoned without a repetition: %s", claim.pk, refusal
            )
    try:
        with transaction.atomic(using=_database()):
            return bool(_claimed(claim).update(**counted))
    except Error as error_of_database:
        if is_passing(connections[_database()], error_of_database):
            raise
        # Its attempts may be as many as the column can hold: count no more.
        with transaction.atomic(using=_database()):
            return bool(_claimed(claim).update(**values))


def cancel(pks: Collection[int], text: str, *, ends_chain: bool) -> list[Entry]:
    """Complete tasks that wait as failed, with this text; return those that waited.

    No try is counted. `announce` is to be called after the commit.
    """
    rows: TaskQuerySet = Task.objects.using(_database())
    waiting = _claims(rows.filter(pk__in=pks, locked_by=None))
    with transaction.atomic(using=_database()):
        entries = []
        for task in _locked(waiting).values():
            task.last_error, task.failed_at = text, timezone.now()
            entry = _failed(task, None, goes_on=not ends_chain)
            backs_off = task.attempts > 0 and task.run_at > task.failed_at
            if entry.completed and backs_off and task.repeat_from is None:
                entry.completed.repeat_from = None  # its end is no planned moment
            entries.append(entry)
        _write(entries)
    return entries


def _abandon_and_repeat(claim: Claim, values: dict[str, Any]) -> bool:
    task = _locked([claim]).get(claim)
    if task is None:
        return False
    if repetition := task.repetition():
        _save([repetition])
        values = values | {"repeat": Task.NEVER}  # see `_failed`
    return bool(_claimed(claim).update(**values))


def _goes_on(*, succeeded: bool) -> bool:
    """Return whether a chain of repeats goes on after this end of one of its tasks."""
    return succeeded or app_settings.BACKGROUND_TASK_REPEAT_AFTER_FAILURE


def _abandoned(error: str) -> dict[str, Any]:
    text = error.replace("\x00", "\\x00").encode("ascii", "backslashreplace").decode()
    return {
        **UNLOCKED,
        "failed_at": timezone.now(),
        "last_error": text,
    }


def announce(entry: Entry) -> None:
    """Send the signal of what was recorded; to be called after the commit."""
    if entry.completed is None:
        broadcast(task_rescheduled, Task, task=entry.task)
        return
    signal = task_failed if entry.completed.failed_at else task_successful
    broadcast(signal, Task, task_id=entry.task.pk, completed_task=entry.completed)


def _entered(task: Task, ending: Ending) -> Entry:
    """Return what follows from the end of a try, nothing of which is saved yet."""
    task.attempts += 1
    attempt = _attempt(task, ending)
    if ending.error is None:
        task.last_error = ""  # a former try's
        completed = task.completed_task()
        repetition = task.repetition()
        return Entry(
            task=task, completed=completed, repetition=repetition, attempt=attempt
        )
    task.last_error = ending.error
    parked = attempt is not None and _parked(attempt)
    if parked:
        task.last_error += f"\n{parked}"
    outcome = Attempt.Outcome.FAILED if attempt is None else attempt["outcome"]
    said = logrecords.fields(task, task.attempts, ending.claim.locked_by, str(outcome))
    if ending.permanent or parked or task.has_reached_max_attempts():
        task.failed_at = timezone.now()
        logger.warning("Marking task %s as failed", task.with_id(), extra=said)
        cancelled = attempt is not None and (
            attempt["outcome"] == Attempt.Outcome.CANCELLED
        )
        goes_on = cancelled or _goes_on(succeeded=False)
        return _failed(task, attempt, goes_on=goes_on)
    if task.repeat_from is None and _keeps_time(task):
        task.repeat_from = task.run_at  # the retry's is not where it was planned
    wait = policies.wait_after(task.task_name, task.attempts)
    task.run_at = timezone.now() + wait
    task.progress_done = task.progress_total = task.progress_message = None
    task.holds_claim(None, None)
    text = "Rescheduling task %s for %s later at %s"
    logger.warning(text, task.with_id(), wait, task.run_at, extra=said)
    return Entry(task=task, attempt=attempt)


def _keeps_time(task: Task) -> bool:
    """Does a retry not move the task's chain? As upstream has it, it does."""
    return task.is_repeating_task() and repeats.keeps_to_clock(task.repeat)


def _failed(task: Task, attempt: Mapping[str, Any] | None, *, goes_on: bool) -> Entry:
    """Return what follows when a task is given up."""
    completed, repetition = task.completed_task(), None
    if task.is_repeating_task():
        completed.repeat_from = task.repeat_from or task.run_at
    if goes_on and (repetition := task.repetition()):
        # The chain has left it: run again by hand, it must not begin another.
        completed.repeat, completed.repeat_from = Task.NEVER, None
    return Entry(task=task, completed=completed, repetition=repetition, attempt=attempt)


def _attempt(task: Task, ending: Ending) -> dict[str, Any] | None:
    """Return the columns of the try's evidence, if there is any."""
    if ending.evidence is None:
        return None
    started_at, waited = ending.evidence["started_at"], None
    if started_at is not None:
        waited = (started_at - task.run_at).total_seconds()
    return {
        "task_id": task.pk,
        "task_name": task.task_name,
        "number": task.attempts,
        "error": ending.error or "",
        "waited": waited,
        **ending.evidence,
    }


def _parked(attempt: Mapping[str, Any]) -> str:
    """Say why a task whose process dies again and again is given up, if it is."""
    most = app_settings.BACKGROUND_TASK_MAX_CRASHES
    crashed = attempt["outcome"] == Attempt.Outcome.CRASHED
    died = crashed and attempt.get("exit_code") is not None
    if most is None or not died or attempt["started_at"] is None:
        return ""
    crashes = _crashes_before(attempt) + 1
    if crashes < int(most):
        return ""
    return (
        f"Parked: its process has died {crashes} times of itself "
        f"(BACKGROUND_TASK_MAX_CRASHES is {most})"
    )


def _crashes_before(attempt: Mapping[str, Any]) -> int:
    """Count the tries whose process died, but for those of the task that it retries."""
    crashes, number = 0, attempt["number"]
    tries = Attempt.of(attempt["task_id"], _database()).order_by("-id")
    for one in tries.only("number", "outcome", "exit_code", "started_at"):
        if one.number >= number:
            break
        number = one.number
        died = one.outcome == Attempt.Outcome.CRASHED and one.exit_code is not None
        crashes += died and one.started_at is not None
    return crashes


def note_progress(claim: Claim, done: int, total: int | None, message: str) -> bool:
    """Write how far a try is; a claim that holds no more changes nothing.

    Returns False, without waiting, if another has locked its row. Called in a
    transaction.
    """
    row = _claimed(claim)
    if not row.lock_unlocked_rows().values_list("pk").first():
        return not row.exists()
    longest = Task._meta.get_field("progress_message").max_length
    text = message.replace("\x00", "")[:longest]
    row.update(
        progress_done=done,
        progress_total=total,
        progress_message=text.encode(errors="replace").decode(),
    )
    return True


def _write(entries: Collection[Entry]) -> None:
    """Write all that follows, in as many statements for many as for one.

    Or more, where they would be longer than a server may take.
    """
    _save(entry.completed for entry in entries if entry.completed)
    _save(entry.repetition for entry in entries if entry.repetition)
    attempts = [entry.attempt for entry in entries if entry.attempt]
    for some in _portions(attempts, lambda attempt: attempt.values()):
        compiled.insert(connections[_database()], Attempt, some)
    if over := [entry.task for entry in entries if entry.completed]:
        _of(over).delete()
    again = [entry.task for entry in entries if not entry.completed]
    changed = (
        *("attempts", "run_at", "repeat_from"),
        *("last_error", "locked_by", "locked_at"),
        *_PROGRESS,
    )
    for tasks in _portions(again, lambda task: [task.last_error]):
        Task.objects.using(_database()).bulk_update(tasks, changed)


def _portions(
    rows: Iterable[_Row], texts: Callable[[_Row], Iterable[Any]]
) -> Iterator[list[_Row]]:
    """Yield rows in their order, no more at a time than one statement should hold."""
    portion: list[_Row] = []
    size = 0
    for row in rows:
        length = sum(len(text) for text in texts(row) if isinstance(text, str))
        if portion and size + length > _LONGEST_STATEMENT:
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += length
    if portion:
        yield portion


def _save(rows: Iterable[Task | CompletedTask]) -> None:
    """Save new rows; one as the in-process runner does, with the model's signals."""
    new: list[Any] = list(rows)
    knows_keys = connections[_database()].features.can_return_rows_from_bulk_insert
    if len(new) > 1 and knows_keys:
        for some in _portions(new, lambda row: [row.task_params, row.last_error]):
            type(new[0])._base_manager.using(_database()).bulk_create(some)
        return
    for row in new:
        row.save(using=_database())


def _database() -> str:
    return router.db_for_write(Task)


def _of(tasks: Iterable[Task]) -> TaskQuerySet:
    rows: TaskQuerySet = Task.objects.using(_database()).filter(
        pk__in=[task.pk for task in tasks]
    )
    return rows


def _claimed(claim: Claim) -> TaskQuerySet:
    rows: TaskQuerySet = Task.objects.using(_database()).filter(**claim._asdict())
    return rows


def _locked(claims: Collection[Claim]) -> dict[Claim, Task]:
    """Return the claimed tasks, their rows locked until the transaction ends."""
    wanted = set(claims)
    rows: TaskQuerySet = Task.objects.using(_database()).filter(
        pk__in=[claim.pk for claim in wanted]
    )
    if not connections[_database()].features.has_select_for_update:
        # SQLite: a transaction that begins with a read fails at once, without waiting,
        # if another writes before it does. So begin with a write that changes nothing.
        rows.update(locked_at=F("locked_at"))
    locked = rows.select_for_update().order_by("pk")
    found = {Claim.of(task): task for task in locked}
    return {claim: task for claim, task in found.items() if claim in wanted}
