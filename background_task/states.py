"""Which state is a task in? As people see it: the rows know no such column."""

from datetime import datetime
from typing import Any

from django.db.models import Q, TextChoices
from django.utils.translation import gettext_lazy as _

from .models import BaseTask, CompletedTask

# How the error of what a person has cancelled or stopped begins: it has not failed.
CANCELLED = "Cancelled by "


class State(TextChoices):
    """What a task is doing; each is in exactly one."""

    WAITING = "waiting", _("waiting")  # for its moment; it has not been tried
    RETRYING = "retrying", _("retrying")  # a try failed, it waits for the next one
    DUE = "due", _("due")  # its moment has come
    RUNNING = "running", _("running")  # a runner holds it
    FAILED = "failed", _("failed")  # for good
    CANCELLED = "cancelled", _("cancelled")  # or stopped, by a person
    DONE = "done", _("done")


OF_TASKS = (State.WAITING, State.RETRYING, State.DUE, State.RUNNING, State.FAILED)
OF_COMPLETED = (State.DONE, State.FAILED, State.CANCELLED)


def state_of(task: BaseTask, now: datetime) -> State:
    """Return the state that a row shows at the moment `now`."""
    if isinstance(task, CompletedTask):
        return _state_of_completed(task)
    if task.failed_at is not None:
        return State.FAILED
    if task.locked_by is not None:
        return State.RUNNING
    if task.run_at <= now:
        return State.DUE
    return State.RETRYING if task.attempts else State.WAITING


def _state_of_completed(task: CompletedTask) -> State:
    if task.failed_at is None:
        return State.DONE
    by_a_person = task.last_error.startswith(CANCELLED)
    return State.CANCELLED if by_a_person else State.FAILED


def in_state(state: str, now: datetime, *, completed: bool = False) -> Q:
    """Return the condition that finds the rows of a state, as `state_of` has it."""
    failed = Q(failed_at__isnull=False)
    if completed:
        cancelled = Q(last_error__startswith=CANCELLED)
        of_completed: dict[Any, Q] = {
            State.DONE: ~failed,
            State.FAILED: failed & ~cancelled,
            State.CANCELLED: failed & cancelled,
        }
        return of_completed[state]
    free = Q(failed_at=None, locked_by=None)
    conditions: dict[Any, Q] = {
        State.WAITING: free & Q(run_at__gt=now, attempts=0),
        State.RETRYING: free & Q(run_at__gt=now, attempts__gt=0),
        State.DUE: free & Q(run_at__lte=now),
        State.RUNNING: Q(failed_at=None, locked_by__isnull=False),
        State.FAILED: failed,
    }
    return conditions[state]
