"""What may a person have done to tasks and runners: cancel, stop, retry, pause…?

Each is a guarded write: what has changed hands meanwhile is left alone. What only a
runner can do is a row of `Control`, which the bookkeepers read once a second or more
often, and before each claim; on PostgreSQL they are called at the commit: see `orders`.
`by` names who asks, for the books.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from django.db import IntegrityError, connections, router, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from . import books, wakeups
from .models import HELD_BY_PID, Attempt, CompletedTask, Control, Runner, Task
from .served import Served
from .states import CANCELLED

EVERY_QUEUE = "*"  # the target of a pause of all
NO_QUEUE = ""  # the target of a pause of tasks that are in no queue

_BATCH = 500  # rows in one transaction


# Of tasks


def cancel(tasks: Iterable[int], by: str) -> int:
    """End tasks that wait, by id, as failed: "Cancelled by …"; return how many.

    One that runs is left alone: `stop` is for it. A chain of repeats ends with it.
    """
    cancelled = 0
    for pks in _batches(tasks):
        entries = books.cancel(pks, f"{CANCELLED}{by}", ends_chain=True)
        for entry in entries:
            announce = partial(books.announce, entry)
            transaction.on_commit(announce, using=_database())
        cancelled += len(entries)
    return cancelled


def stop(tasks: Iterable[int], by: str) -> int:
    """Have tasks that run stopped, wherever they do; return of how many it is asked.

    Each is asked to stop, killed after its grace, and never tried again; a chain of
    repeats goes on. One whose try ends before it is heard of is cancelled, if it would
    be tried again. What a bare pid holds is left alone: nobody there would read it.
    """
    running = Task.objects.using(_database()).filter(locked_by__isnull=False)
    running = running.exclude(HELD_BY_PID)
    asked = 0
    for pks in _batches(tasks):
        # In the order of the index of `Control`, in which others lock its rows, too.
        found = sorted(running.filter(pk__in=pks).values_list("pk", flat=True), key=str)
        with transaction.atomic(using=_database()):  # and the runners are called once
            for pk in found:
                _ask(Control.Verb.STOP, str(pk), by)
        asked += len(found)
    return asked


def run_now(tasks: Iterable[int]) -> int:
    """Have tasks that wait be due now, back-off or not; return how many.

    One that was given up in place may be tried again as often as a new one. A chain of
    repeats goes on at its own time; where retries move it, it moves with this one.
    """
    changed = 0
    for pks in _batches(tasks):
        waiting = _waiting().filter(pk__in=pks)
        changed += books.have_due(waiting, timezone.now())
        abandoned = waiting.exclude(failed_at=None)
        abandoned.update(attempts=0, last_error="", failed_at=None)
        _wake(pks)
    return changed


def change_priority(tasks: Iterable[int], by_how_much: int) -> int:
    """Add to the priority of tasks that wait; return how many there were."""
    return sum(
        _waiting().filter(pk__in=pks).update(priority=F("priority") + by_how_much)
        for pks in _batches(tasks)
    )


def retry(completed: Iterable[int]) -> dict[int, int]:
    """Have tasks that failed for good wait again, with all the attempts of new ones.

    `completed` are ids of completed rows, which go: nothing is retried twice. The ids
    under which they wait are returned by them: those that the tasks had, but for rows
    of 1.2.8, which tell of none, and where another task has taken it. Those that
    succeeded are left alone. A chain of repeats that ended with a task goes on with it,
    at its own time.
    """
    new: dict[int, int] = {}
    for pks in _batches(completed):
        new |= _retry(pks)
    return new


def _retry(pks: Collection[int]) -> dict[int, int]:
    rows = CompletedTask.objects.using(_database()).filter(pk__in=pks)
    with transaction.atomic(using=_database()):
        failed = rows.exclude(failed_at=None)
        if not connections[_database()].features.has_select_for_update:
            failed.update(failed_at=F("failed_at"))  # see `_ask`
        found: list[CompletedTask] = list(failed.select_for_update())
        rows.filter(pk__in=[row.pk for row in found]).delete()
        former = [row.task_id for row in found if row.task_id is not None]
        # Who asked for a stop did so before this.
        _rows(Control.Verb.STOP).filter(target__in=map(str, former)).delete()
        tasks = Task.objects.using(_database()).filter(pk__in=former)
        taken = set(tasks.values_list("pk", flat=True))
        return {row.pk: _wait_again(row, taken) for row in found}


def _wait_again(row: CompletedTask, taken: set[int]) -> int:
    """Insert the task, under its own id if that is not taken; return its id."""
    again = row.another(run_at=timezone.now(), repeat_from=row.repeat_from)
    if row.task_id not in taken:
        again.pk = row.task_id
    again.save(using=_database(), force_insert=True)
    taken.add(again.pk)
    if row.task_id not in (None, again.pk):
        tries = Attempt._base_manager.using(_database())
        tries.filter(task_id=row.task_id).update(task_id=again.pk)
    return again.pk


# Of queues and runners


def pause(queue: str, by: str) -> bool:
    """Have nothing of a queue claimed until `resume`; what runs goes on.

    A queue's name, NO_QUEUE or EVERY_QUEUE. Returns whether it was not paused already:
    a pause that stands keeps by whom and since when.
    """
    try:
        with transaction.atomic(using=_database()):
            _rows().create(
                verb=Control.Verb.PAUSE, target=queue, by=by[:150], at=timezone.now()
            )
    except IntegrityError:
        return False
    _call()
    return True


def resume(queue: str) -> bool:
    """Have a queue claimed again; return whether it was paused.

    EVERY_QUEUE takes back a pause of all, not those of single queues.
    """
    rows = _rows(Control.Verb.PAUSE).filter(target=queue)
    resumed = bool(rows.delete()[0])
    _call()
    return resumed


def paused() -> QuerySet[Control]:
    """Return the pauses that stand, with by whom and since when."""
    return _rows(Control.Verb.PAUSE).order_by("target")


def pause_of(queue: str | None, pauses: Iterable[Control]) -> Control | None:
    """Return which of these pauses a queue rests by, or None; a pause of all first."""
    by_target = {row.target: row for row in pauses}
    every = by_target.get(EVERY_QUEUE)
    return every or by_target.get(NO_QUEUE if queue is None else queue)


def awake(served: Served) -> Served:
    """Return these queues but for those that are paused."""
    return without(served, set(paused().values_list("target", flat=True)))


def without(served: Served, targets: Collection[str]) -> Served:
    """Return these queues but for the targets of pauses.

    NO_QUEUE is of NULL and of "", which 1.2.8 has written for `queue=""`.
    """
    queues: set[str | None] = {target for target in targets if target != EVERY_QUEUE}
    rest = served.but(queues | ({None} if NO_QUEUE in queues else set()))
    return replace(rest, nothing=EVERY_QUEUE in targets)


def queue_of(target: str) -> str | None:
    """Return the queue that a pause is of, None for tasks in none; not EVERY_QUEUE."""
    return None if target == NO_QUEUE else target


def drain(runner: str, by: str) -> bool:
    """Have a runner end as by SIGTERM; return whether there is one of this id."""
    if not Runner.objects.using(_database()).filter(pk=runner).exists():
        return False
    _ask(Control.Verb.DRAIN, runner, by)
    return True


# What runs is asked, and answers


def ask_output(task: int, by: str) -> None:
    """Have a running task's output told once a second, for a while: ask again."""
    _ask(Control.Verb.OUTPUT, str(task), by)


def ask_stack(task: int, by: str) -> None:
    """Have a running task's Python stack told once."""
    _ask(Control.Verb.STACK, str(task), by, answer="")


def answer(verb: str, task: int) -> Any:
    """Return what a task has answered, as `tell` got it, or None."""
    row = _rows(verb).filter(target=str(task)).first()
    return json.loads(row.answer) if row is not None and row.answer else None


def forget(verb: str, task: int) -> None:
    """Nobody waits for the answer any more."""
    _rows(verb).filter(target=str(task)).delete()


# Rows


def _ask(verb: str, target: str, by: str, **values: Any) -> None:
    # Written first, not read: SQLite lets a transaction that has read wait for no lock.
    values = {"by": by[:150], "at": timezone.now(), **values}
    row = _rows(verb).filter(target=target)
    if not row.update(**values):
        try:
            with transaction.atomic(using=_database()):
                _rows().create(verb=verb, target=target, **values)
        except IntegrityError:  # another has asked meanwhile
            row.update(**values)
    _call()


def _call() -> None:
    wakeups.call_runners(_database())


def _rows(verb: str | None = None) -> QuerySet[Control]:
    rows = Control.objects.using(_database())
    return rows.all() if verb is None else rows.filter(verb=verb)


def _waiting() -> QuerySet[Task]:
    tasks: QuerySet[Task] = Task.objects.using(_database()).filter(locked_by=None)
    return tasks


def _wake(pks: Collection[int]) -> None:
    queues = Task.objects.using(_database()).filter(pk__in=pks).values_list("queue")
    for (queue,) in queues.distinct():
        wakeups.notify(queue, _database())


def _batches(pks: Iterable[int]) -> Iterator[list[int]]:
    known = list(pks)
    for start in range(0, len(known), _BATCH):
        yield known[start : start + _BATCH]


def _database() -> str:
    return router.db_for_write(Task)
