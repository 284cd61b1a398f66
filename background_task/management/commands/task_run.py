"""`manage.py task_run`: one task, here and now, in the foreground."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _

from background_task import control, display
from background_task.exceptions import last_line
from background_task.models import Attempt, CompletedTask, Runner, Task
from background_task.states import State, state_of
from background_task.supervisor.bookkeeper import Books
from background_task.supervisor.evidence import Ended, Evidence
from background_task.supervisor.outcome import Outcome, Released, Succeeded
from background_task.tasks import autodiscover, tasks

from ._asked import Asked, resolve_for_one
from ._family import (
    EX_INTERRUPTED,
    EX_NOT,
    EX_REFUSED,
    Family,
    find,
    find_completed,
    moment,
)
from .process_tasks import Command as ProcessTasks
from .process_tasks import why_in_process

_QUEUES = "background_task.management.commands._one_task"


class Command(Family):
    requires_system_checks = "__all__"
    help = (
        "Run one task here, in the foreground, whether it is due or not: claimed as a "
        "runner does, in a process of its own, with the same limits, and recorded in "
        "the same way. It is tried once; if it fails, others try it again. What it "
        "prints is shown. Refused if somebody else holds it. Ctrl-C stops it, and "
        "gives it back at no attempt's cost. With --replay: run the function with the "
        "arguments of any task, one that has ended too, and write nothing to the "
        "books. It really runs, so whatever it does is done once more. Exit status: "
        "0 it succeeded, 1 it failed, 2 called wrongly, 3 refused, 130 stopped by "
        "Ctrl-C."
    )
    examples = """\
  manage.py task_run 4711                     do not wait for a runner
  manage.py task_run 4711 --replay            run it again, as if it had not run
  manage.py task_run --replay --completed 99  the same by the completed row's id
  manage.py task_run 4711 --memory-limit 2G --max-run-time 600
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", type=int, metavar="ID", help="a task, as logs call it"
        )
        parser.add_argument(
            "--replay",
            action="store_true",
            help="run its function with its arguments once more, off the books",
        )
        parser.add_argument(
            "--completed",
            action="store_true",
            help="with --replay: the id is that of a completed row",
        )
        parser.add_argument(
            "--memory-limit",
            metavar="SIZE",
            help="the most that it may hold with all its processes, such as 512M, if "
            "its own limit is not lower",
        )
        parser.add_argument(
            "--max-run-time",
            metavar="SECONDS",
            help="the longest that it may run, if its own limit is not shorter",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["completed"] and not options["replay"]:
            text = _("What is completed can only be replayed: add --replay.")
            raise CommandError(text, returncode=2)
        if why := why_in_process():
            text = _(
                "No other process can see the tasks (%(why)s), so none can run one."
            )
            raise _refused(text % {"why": why})
        outcome = self._replay(options) if options["replay"] else self._run(options)
        if not isinstance(outcome, Succeeded):
            raise CommandError(str(outcome), returncode=EX_NOT)

    # On the books

    def _run(self, options: dict[str, Any]) -> Any:
        found = find(options["id"])
        if found.task is None:
            text = _(
                "Task %(id)s has ended. --replay runs it once more, off the books."
            )
            raise _refused(text % {"id": options["id"]})
        task = found.task
        _check_free(task)
        _check_known(task.task_name)
        self._tell_of_pause(task)
        only = {"task": task.pk, "attempts": task.attempts}
        supervisor = self._supervise("OneTask", only, options)
        attempt = _recorded(task, supervisor)
        if attempt.outcome == Attempt.Outcome.SUCCEEDED:
            self._tell_success(task, attempt.duration, attempt.peak_memory)
            return Succeeded()
        return f"{attempt.error.strip()}\n{_what_follows(task, attempt)}"

    def _tell_success(
        self, row: Task | CompletedTask, seconds: float | None, peak: int | None
    ) -> None:
        about = {"id": _columns(row)["id"], "name": row.verbose_name or row.task_name}
        text = _("Task %(id)s (%(name)s) succeeded") % about
        self.remark(f"{text}{_figures(seconds, peak)}.")

    def _tell_of_pause(self, task: Task) -> None:
        mine = {control.EVERY_QUEUE, task.queue or control.NO_QUEUE}
        for row in control.paused():
            if row.target in mine:
                text = _(
                    "Paused by %(by)s since %(at)s; run all the same, being named."
                )
                self.remark(text % {"by": row.by, "at": moment(row.at)})

    # Off the books

    def _replay(self, options: dict[str, Any]) -> Outcome:
        pk = options["id"]
        row = find_completed(pk) if options["completed"] else find(pk).row
        _check_known(row.task_name)
        text = _("Replaying %(name)s: whatever it does is done once more.")
        self.remark(text % {"name": row.task_name})
        with tempfile.TemporaryDirectory(prefix="task_run-") as folder:
            ended = Path(folder, "ended")
            more = {"row": _columns(row), "ended": str(ended)}
            supervisor = self._supervise("Replay", more, options)
            if ended.exists():
                message = json.loads(ended.read_text())
                told = Ended.from_message(message)
                if isinstance(told.outcome, Succeeded):
                    known = told.evidence
                    self._tell_success(row, _seconds(known), known.peak)
                if not isinstance(told.outcome, Released):
                    return told.outcome
        raise _not_run(supervisor, _("Stopped."))

    def _supervise(
        self, queue: str, arguments: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Have a supervisor run what a queue of `_one_task` gives it."""
        command = _OfOne(queue, arguments, stdout=self.stdout, stderr=self.stderr)
        limits = {
            name: options[name]
            for name in ("memory_limit", "max_run_time")
            if options[name] is not None
        }
        call_command(
            command,
            workers="1",
            tasks_per_process="1",
            drain_timeout="0",
            until_empty=True,
            verbosity=options["verbosity"],
            skip_checks=True,
            **limits,
        )
        return command.supervisor


class _OfOne(ProcessTasks):
    """`process_tasks`, but for one task."""

    def __init__(self, queue: str, arguments: dict[str, Any], **streams: Any) -> None:
        super().__init__(**streams)
        self._queue, self._arguments = queue, arguments

    def resolve(self, options: dict[str, Any]) -> Asked:
        return resolve_for_one(options)

    def books(self, books: Books) -> Books:
        arguments = {**books.arguments, **self._arguments}
        return replace(books, queue=f"{_QUEUES}:{self._queue}", arguments=arguments)

    def say_first(self, line: str) -> None:
        """What runs has been named."""


def _check_free(task: Task) -> None:
    if task.failed_at is not None:
        text = _(
            "Task %(task)s was given up in place: %(error)s. tasks_retry --waiting "
            "%(id)s gives it a new chance, --replay runs it off the books."
        )
        about = {"id": task.pk, "task": task.with_id()}
        raise _refused(text % (about | {"error": last_line(task.last_error)}))
    if not task.locked_by:
        return
    runner = Runner.objects.filter(pk=task.locked_by).first()
    text = _(
        "Task %(task)s is held by %(owner)s since %(at)s. tasks_cancel --running "
        "%(id)s stops it."
    )
    about = {
        "id": task.pk,
        "task": task.with_id(),
        "owner": runner or task.locked_by,
        "at": moment(task.locked_at) if task.locked_at else "?",
    }
    raise _refused(text % about)


def _check_known(name: str) -> None:
    """Refuse a name that no task of this project has."""
    autodiscover()
    if name not in tasks._tasks:
        text = _("No task of this project is registered as %(name)s: it can't be run.")
        raise _refused(text % {"name": name})


def _columns(row: Task | CompletedTask) -> dict[str, Any]:
    """Return what a job is made of, as plain data."""
    return {
        "id": row.pk if isinstance(row, Task) else row.task_id or row.pk,
        "task_name": row.task_name,
        "task_params": row.task_params,
        "verbose_name": row.verbose_name,
        "queue": row.queue,
        "max_run_time": row.max_run_time,
    }


def _recorded(task: Task, supervisor: Any) -> Attempt:
    """Return what is recorded of the try; raise CommandError if it did not run."""
    tries = Attempt.of(task.pk, router.db_for_write(Task))
    attempt = tries.filter(runner_id=supervisor.runner.id).last()
    if attempt is None:
        _check_abandoned(task)
        raise _not_run(supervisor, _("Stopped, and given back at no attempt's cost."))
    return attempt


def _check_abandoned(task: Task) -> None:
    """Raise CommandError if the task was run, and its end could not be recorded."""
    rows = Task.objects.using(router.db_for_write(Task))
    row = rows.filter(pk=task.pk).exclude(failed_at=None).first()
    if row is not None:
        text = _("Task %(task)s was run, and is given up in place. %(error)s")
        about = {"task": task.with_id(), "error": last_line(row.last_error)}
        raise CommandError(text % about, returncode=EX_NOT)


def _what_follows(task: Task, attempt: Attempt) -> str:
    found = find(task.pk)
    waiting = found.task
    figures = _figures(attempt.duration, attempt.peak_memory)
    about = {"task": task.with_id(), "figures": figures}
    if state_of(found.row, timezone.now()) == State.CANCELLED:
        about["error"] = last_line(found.row.last_error)
        return _("Task %(task)s has ended%(figures)s. %(error)s") % about
    if waiting is None:
        return _("Task %(task)s has failed for good%(figures)s.") % about
    text = _("Task %(task)s has failed%(figures)s, and is tried again at %(at)s.")
    return text % (about | {"at": moment(waiting.run_at)})


def _seconds(known: Evidence) -> float | None:
    if known.started is None or known.ended is None:
        return None
    return known.ended - known.started


def _figures(seconds: float | None, peak: int | None) -> str:
    """Return how long a try took and what it held at most, as far as it is known."""
    text = ""
    if seconds is not None:
        text += _(" after %(time)s") % {"time": display.duration(seconds)}
    if peak is not None:
        text += _(" (peak memory %(memory)s)") % {"memory": display.memory(peak)}
    return text


def _not_run(supervisor: Any, stopped: str) -> CommandError:
    if supervisor.was_told_to_stop:
        return CommandError(stopped, returncode=EX_INTERRUPTED)
    text = _("It was not run: somebody else has taken or changed it meanwhile.")
    return _refused(text)


def _refused(text: str) -> CommandError:
    return CommandError(text, returncode=EX_REFUSED)
