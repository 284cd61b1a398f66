"""`manage.py task_log`: what a task has printed, or prints right now."""

import re
import time
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _

from background_task import control, names
from background_task.exceptions import last_line
from background_task.models import Attempt, CompletedTask, Task
from background_task.states import State, state_of

from . import _live
from ._family import EX_NOT, Family, add_by, by, find, moment

_LOOK_EVERY = 1.0  # seconds
_ASK_EVERY = 5.0  # seconds; a runner tells no more 15 s after it was asked
_GAP = re.compile(r"\n\[\.\.\. \d+ bytes \.\.\.\]\n")


class Command(Family):
    help = (
        "Print what a task has printed, to stdout and stderr: of one that runs, until "
        "now; of one that has ended, its last try. Of much output the first and the "
        "last 32 KiB are kept. With --follow what it prints from now on is told within "
        "about a second, try after try, until the task has ended. Only while somebody "
        "follows does its output reach the database."
    )
    examples = """\
  manage.py task_log 4711              until now
  manage.py task_log 4711 --follow     until it has ended; Ctrl-C ends it sooner
  manage.py task_log 4711 --attempt 1  what its first try has printed
  manage.py task_log 4711 --attempt -3 two tries before the last one, before a retry too
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", type=int, metavar="ID", help="a task, as logs call it"
        )
        parser.add_argument(
            "--follow", "-f", action="store_true", help="go on until the task has ended"
        )
        parser.add_argument(
            "--attempt",
            type=int,
            metavar="N",
            help="of this try; the first one is 1, and -1 the last one, -2 the last "
            "but one, whatever their numbers",
        )
        add_by(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        pk = options["id"]
        if options["attempt"] is not None:
            if options["follow"]:
                text = _("--attempt is of a try that has ended: leave out --follow.")
                raise CommandError(text, returncode=2)
            self._print_attempt(pk, options["attempt"])
            return
        task = find(pk).task
        if options["follow"]:
            self._follow(pk, by(options))
        elif task is not None and task.locked_by:
            self._print_running(task, by(options))
        else:
            self._print_last(pk)

    # Once

    def _print_running(self, task: Task, by: str) -> None:
        told = _live.ask("output", control.ask_output, task, by)
        if told is not None:
            self._out(told["text"])
        elif _live.is_running(task.pk):
            raise CommandError(_live.why_silent(task), returncode=EX_NOT)
        else:
            self._print_last(task.pk)

    def _print_last(self, pk: int) -> None:
        """Print what the last try that has ended has printed."""
        task, last = find(pk).task, _tries(pk).last()
        if task is not None:
            self.remark(_waits(task))
        if last is not None:
            self._print(last)
            if task is None and _says_more(completed := _completed(pk), last):
                self.remark(_end(completed))
        elif task is None:
            completed = _completed(pk)
            if completed.last_error and completed.attempts == 0:
                raise CommandError(_end(completed), returncode=EX_NOT)
            text = _(
                "Task %(id)s has ended, and no try of it is recorded: it was run by an "
                "in-process runner or by 1.2.8, or its attempts were pruned."
            )
            raise CommandError(text % {"id": pk}, returncode=EX_NOT)

    def _print_attempt(self, pk: int, number: int) -> None:
        """Print what a try has printed, and say how to get at others of its number."""
        tries = list(_tries(pk))
        attempt = _attempt(pk, number, tries)
        self._print(attempt)
        alike = [
            place
            for place, one in enumerate(tries, -len(tries))
            if one.number == attempt.number and one.pk != attempt.pk
        ]
        if alike:
            text = _("It was retried: other tries %(n)d are --attempt %(places)s.")
            about = {"n": attempt.number, "places": ", ".join(map(str, alike))}
            self.remark(text % about)

    def _print(self, attempt: Attempt) -> None:
        self._out(attempt.output)
        self.remark(_ended(attempt))

    def _out(self, text: str) -> None:
        self.stdout.write(text, ending="")
        self.stdout.flush()

    # Until it has ended

    def _follow(self, pk: int, by: str) -> None:
        """Print what is new, once a second, until the task has ended."""
        last = _tries(pk).last()
        done = last.pk if last and find(pk).task else 0
        if find(pk).task is None:
            self._print_last(pk)
            return
        follower = _Follower(self, pk, by, done)
        try:
            while follower.step():
                time.sleep(_LOOK_EVERY)
        finally:
            control.forget("output", pk)

    def follow_text(self, text: str) -> None:
        self._out(text)


class _Follower:
    """What has been shown of a task so far, and when it is to be asked again."""

    def __init__(self, command: Command, pk: int, by: str, done: int) -> None:
        """`done` is the key of the last try that is not shown."""
        self._command = command
        self._pk, self._by, self._done = pk, by, done
        self._shown = Shown()
        self._ask_at = self._heard_at = time.monotonic()
        self._said = ""

    def step(self) -> bool:
        """Show what is new; return whether more may come."""
        task = Task.objects.using(router.db_for_write(Task)).filter(pk=self._pk).first()
        # After the task, whose end is written together with that of its last try.
        for attempt in _tries(self._pk).filter(pk__gt=self._done):
            self._finish(attempt)
        if task is None:
            self._tell_end()
            return False
        if task.locked_by:
            self._hear(task)
        else:
            self._remark_once(_waits(task))
        return True

    def _finish(self, attempt: Attempt) -> None:
        text = self._shown.rest(attempt.output, attempt.output_size)
        self._command.follow_text(text)
        self._command.remark(_ended(attempt))
        self._done, self._shown = attempt.pk, Shown()
        control.forget("output", self._pk)
        self._ask_at = self._heard_at = time.monotonic()

    def _hear(self, task: Task) -> None:
        now = time.monotonic()
        told = control.answer("output", self._pk)
        if told is None or now >= self._ask_at:  # another may have forgotten it
            control.ask_output(self._pk, self._by)
            self._ask_at = now + _ASK_EVERY
        if told is not None:
            self._heard_at = now
            self._command.follow_text(self._shown.news(told["text"], told["size"]))
        elif now > self._heard_at + _live.PATIENCE:
            self._remark_once(_live.why_silent(task))

    def _tell_end(self) -> None:
        self._command.remark(_end(_completed(self._pk)))

    def _remark_once(self, text: str) -> None:
        if text != self._said:
            self._command.remark(text)
        self._said = text


class Shown:
    """What has been shown of a try's output, of which the head and the tail are told.

    A character whose last bytes are still to come is held back.
    """

    def __init__(self) -> None:
        self._text, self._size = "", 0

    def news(self, text: str, size: int) -> str:
        """Return what is new in all that was printed until now: `size` bytes."""
        return self._news(text.rstrip("\N{REPLACEMENT CHARACTER}"), size)

    def rest(self, text: str, size: int) -> str:
        """Return what is new in all that was ever printed."""
        return self._news(text, size)

    def _news(self, text: str, size: int) -> str:
        if size < self._size:
            return ""  # it was told before
        if text.startswith(self._text):
            new = text[len(self._text) :]
        else:
            new = _end_of(text, size - self._size)
        self._text, self._size = text, size
        return new


def _end_of(text: str, fresh: int) -> str:
    """Return the last so many bytes of an output with a gap, or what is there of it."""
    gap = _GAP.search(text)
    tail = (text[gap.end() :] if gap else text).encode()
    if fresh <= len(tail):
        return tail[len(tail) - fresh :].decode(errors="ignore")
    return f"\n[... {fresh - len(tail)} bytes ...]\n{tail.decode()}"


def _tries(pk: int) -> Any:
    return Attempt.of(pk, router.db_for_write(Task))


def _attempt(pk: int, number: int, tries: Sequence[Attempt]) -> Attempt:
    """Return a try that has ended, the last one of this number; else CommandError.

    There may be several, if the task was retried. A negative number counts from the
    last one of all, which is -1.
    """
    numbers = [attempt.number for attempt in tries]
    if -len(tries) <= number < 0:
        return tries[number]
    if number in numbers:
        return next(one for one in reversed(tries) if one.number == number)
    text = _("Task %(id)s has no try %(n)d that has ended; those recorded: %(numbers)s")
    known = ", ".join(map(str, numbers)) or _("none")
    raise CommandError(text % {"id": pk, "n": number, "numbers": known})


def _ended(attempt: Attempt) -> str:
    about = {
        "n": attempt.number,
        "outcome": attempt.get_outcome_display(),
        "at": moment(attempt.ended_at),
        "error": last_line(attempt.error),
    }
    text = _("Try %(n)d %(outcome)s at %(at)s") % about
    return f"{text}: {about['error']}" if attempt.error else text


def _completed(pk: int) -> CompletedTask:
    """Return the row of a task that does not wait any more."""
    completed = find(pk).completed
    assert completed is not None, "`find` raises if there is neither"
    return completed


def _end(completed: CompletedTask) -> str:
    """Say how a task has ended."""
    about = {"id": completed.task_id, "error": last_line(completed.last_error)}
    if completed.failed_at is None:
        return _("Task %(id)s succeeded.") % about
    if completed.attempts == 0:
        return _("Task %(id)s has ended before it was ever tried: %(error)s") % about
    if state_of(completed, timezone.now()) == State.CANCELLED:
        return _("Task %(id)s has ended: %(error)s") % about
    return _("Task %(id)s failed for good: %(error)s") % about


def _says_more(completed: CompletedTask, last: Attempt) -> bool:
    """Did a task end by something else than its last try?"""
    error = last_line(completed.last_error)
    return completed.failed_at is not None and error != last_line(last.error)


def _waits(task: Task) -> str:
    about: dict[str, Any] = {"task": task.with_id(), "at": moment(task.run_at)}
    if task.failed_at is not None:
        text = _("Task %(task)s was given up in place at %(at)s: %(error)s")
        about |= {
            "at": moment(task.failed_at),
            "error": last_line(task.last_error),
        }
        return text % about
    text = _("Task %(task)s waits: it is due at %(at)s.")
    if task.run_at <= timezone.now():
        text = _("Task %(task)s waits: it has been due since %(at)s.")
    return f"{text % about} {names.why_no_runner(task.task_name)}".rstrip()
