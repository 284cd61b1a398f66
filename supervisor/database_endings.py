"""How does an outcome become rows, a log record, and news for the supervisor?"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, assert_never

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from background_task import books, logrecords
from background_task.exceptions import last_line
from background_task.models import Task

from .evidence import Ended
from .outcome import (
    Cancelled,
    Crashed,
    Failed,
    Lost,
    Outcome,
    OutOfMemory,
    Released,
    Succeeded,
    TimedOut,
)
from .queue import Runner

logger = logging.getLogger("background_task.tasks")

# What `task_error` is still to be sent for: a task that raised has sent it itself.
_ERRORS: dict[type, str] = {
    TimedOut: "TaskTimeout",
    OutOfMemory: "TaskOutOfMemory",
    Crashed: "TaskCrashed",
    Lost: "TaskLost",
}


class Writer:
    """Writes how tries have ended; what it tells, it tells when that is committed."""

    def __init__(self, alias: str, runner: Runner) -> None:
        """`runner` is the one whose tries they are, but for those of the dead."""
        self._alias = alias
        self.hosts = {runner.id: runner.host[:255]}  # by runner
        self.briefly = False  # log the last line of an error, not its traceback
        self._news: list[dict[str, Any]] = []

    def news(self) -> list[dict[str, Any]]:
        """Return what receivers are to be told of, and forget it."""
        news, self._news = self._news, []
        return news

    def record(self, endings: Mapping[books.Claim, Ended]) -> None:
        """Carry outcomes over into the rows; a fenced claim changes nothing."""
        given_back = {
            claim: ended.outcome
            for claim, ended in endings.items()
            if isinstance(ended.outcome, Released)
        }
        if given_back:
            for claim, task in books.release_all(given_back).items():
                self._log_release(claim, task, given_back[claim])
        over = {c: ended for c, ended in endings.items() if c not in given_back}
        entries = books.record([self._ending(*item) for item in over.items()])
        for (claim, ended), entry in zip(over.items(), entries, strict=True):
            if entry is not None:
                self._tell(claim, entry, ended.outcome)
                self.announce(entry, _error_of(ended.outcome))

    def abandon(self, claim: books.Claim, text: str, *, succeeded: bool) -> None:
        """Give up a task in place whose end is refused."""
        if not books.abandon(claim, text, succeeded=succeeded):
            return
        rows = Task.objects.using(self._alias).filter(pk=claim.pk)
        task = rows.only("pk", "task_name", "queue", "attempts").get()
        said = logrecords.fields(task, task.attempts, claim.locked_by, "Abandoned")
        self._log(logging.ERROR, "Task %s is abandoned: %s", task.pk, text, extra=said)

    def announce(self, entry: books.Entry, error: str | None) -> None:
        """Have it announced, once it is committed; see `execution.announce`."""
        completed = entry.completed and entry.completed.pk
        one = {"task": entry.task.pk, "completed": completed, "error": error}
        transaction.on_commit(lambda: self._news.append(one), using=self._alias)

    def _ending(self, claim: Any, ended: Ended) -> Any:
        outcome = ended.outcome
        evidence = self._evidence(claim, ended)
        Ending, text = books.Ending, str(outcome)
        match outcome:
            case Succeeded():
                return Ending(claim, evidence=evidence)
            case (
                Failed(permanent=permanent)
                | TimedOut(permanent=permanent)
                | OutOfMemory(permanent=permanent)
            ):
                return Ending(claim, text, permanent, evidence)
            case Cancelled():
                return Ending(claim, text, True, evidence)
            case Crashed() | Lost():
                return Ending(claim, text, False, evidence)
            case Released():
                raise AssertionError("it is given back, and has no ending")
            case _:
                assert_never(outcome)

    def _evidence(self, claim: Any, ended: Ended) -> dict[str, Any]:
        """Return what is known of a try, as columns of `Attempt`."""
        known = ended.evidence
        return {
            "outcome": type(ended.outcome).__name__,
            "started_at": _moment(known.started),
            "ended_at": _moment(known.ended) or timezone.now(),
            "host": self.hosts.get(claim.locked_by, ""),
            "runner_id": claim.locked_by or "",
            "pid": known.pid,
            "exit_code": known.exitcode,
            "peak_memory": known.peak,
            "cpu_seconds": known.cpu,
            "output": known.output,
            "output_size": known.output_size,
            "stack": known.stack,
        }

    def _log_release(self, claim: Any, task: Any, outcome: Released) -> None:
        level = logging.INFO if outcome.ahead else logging.WARNING
        said = logrecords.fields(task, task.attempts + 1, claim.locked_by, "Released")
        text, what = "Given back, at no attempt's cost: %s", f"task {task.with_id()}"
        self._log(level, text, f"{what}. {outcome}", extra=said)

    def _tell(self, claim: Any, entry: Any, outcome: Outcome) -> None:
        """Log what was recorded: the one record at ERROR of a try that ended badly.

        What a person has stopped has not: nobody is to be woken for it.
        """
        if self.briefly and isinstance(outcome, Failed | OutOfMemory):
            outcome = replace(outcome, error=last_line(outcome.error))
        more = [str(outcome)]
        match outcome:
            case Succeeded():
                level, text, more = logging.INFO, "Ran task and deleting %s", []
            case Cancelled():
                level, text = logging.WARNING, "Stopped for good: %s\n%s"
            case _ if entry.completed is not None:
                level, text = logging.ERROR, "Failed for good: %s\n%s"
            case _:
                level, text = logging.ERROR, "Rescheduling %s\n%s"
        task, kind = entry.task, type(outcome).__name__
        said = logrecords.fields(task, task.attempts, claim.locked_by, kind)
        self._log(level, text, f"task {task.with_id()}", *more, extra=said)

    def _log(self, *args: Any, extra: dict[str, Any]) -> None:
        """Log it once it is committed."""
        log = partial(logger.log, *args, extra=extra)
        transaction.on_commit(log, using=self._alias)


def _error_of(outcome: Outcome) -> str | None:
    """Return what `task_error` is still to be sent for, by name."""
    if isinstance(outcome, OutOfMemory) and outcome.error:
        return None  # the task has raised it
    return _ERRORS.get(type(outcome))


def _moment(epoch: float | None) -> datetime | None:
    """Return a moment as `timezone.now()` would have told it."""
    if epoch is None:
        return None
    moment = datetime.fromtimestamp(epoch, tz=UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)
