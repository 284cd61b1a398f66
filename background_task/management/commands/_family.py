"""What the commands that look at tasks and runners, and act on them, have in common."""

import argparse
import contextlib
import getpass
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error, OperationalError, ProgrammingError, connections, router
from django.utils import timezone
from django.utils.translation import gettext as _

from background_task import display, inuse
from background_task.models import CompletedTask, Task, row_id
from background_task.outages import is_passing
from background_task.states import State, state_of
from background_task.tables import migrate_text

EX_NOT = 1  # it is not so, or could not be done
EX_REFUSED = 3
EX_INTERRUPTED = 130  # by Ctrl-C, as shells have it

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MIB = 1024 * 1024
_LONGEST = timedelta(days=36_500)  # that long ago there was a calendar
_EXAMPLES = "examples:"


class Family(BaseCommand):
    """A command of the family: quick to start, examples in its help, plain errors."""

    requires_system_checks: Any = ()
    examples = ""

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """Have the help show the examples as they are written."""
        kwargs.setdefault("epilog", f"{_EXAMPLES}\n{self.examples}")
        kwargs.setdefault("formatter_class", _Help)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def execute(self, *args: Any, **options: Any) -> Any:
        """Run the command; what the database refuses is one line, without traceback."""
        try:
            with reached():
                return super().execute(*args, **options)
        except BrokenPipeError:  # whoever read it, such as `head`, has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EX_NOT)
        except KeyboardInterrupt:
            sys.exit(EX_INTERRUPTED)

    def say(self, text: str = "") -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def remark(self, text: str) -> None:
        """Say what is not of the answer, so that a pipe does not get it."""
        self.stderr.write(text, self.style.NOTICE)
        self.stderr.flush()

    def remark_doubts(self, options: dict[str, Any]) -> None:
        """Remark on a `queue` and a `name` that nobody knows: they may be misspelt."""
        said = options["queue"] or []
        queues = [said] if isinstance(said, str) else said
        name = options.get("name")
        for text in inuse.doubts(queues, [name] if name else []):
            self.remark(text)

    def say_json(self, what: Any) -> None:
        self.say(json.dumps(what, cls=DjangoJSONEncoder, indent=2))


class _Help(DjangoHelpFormatter):
    """Django's help, but the examples stay as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_EXAMPLES):
            return text.rstrip()
        return super()._fill_text(text, width, indent)


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Say in one line what is the matter with the database."""
    alias = router.db_for_write(Task)
    try:
        yield
    except Error as error:
        if not is_passing(connections[alias], error):
            if not isinstance(error, (ProgrammingError, OperationalError)):
                raise
            raise CommandError(migrate_text(alias, error)) from error
        text = " ".join(str(error).split())
        raise CommandError(
            _("The database %(alias)r can't be used now: %(error)s")
            % {"alias": alias, "error": text},
            returncode=EX_NOT,
        ) from error


# Arguments


def add_by(parser: CommandParser) -> None:
    """Add --by: who asks, for the books."""
    parser.add_argument(
        "--by",
        metavar="NAME",
        help="who asks, for the books (default: the user of the operating system)",
    )


def by(options: dict[str, Any]) -> str:
    """Return who asks."""
    if options["by"]:
        return str(options["by"])
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def duration(text: str) -> timedelta:
    """Return a time such as `90`, `30s`, `15m`, `2h`, `7d` or `1w`; for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: seconds, or a number with s, m, h, d or w, such as "
            "2h"
        )
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise argparse.ArgumentTypeError(
            f"{text!r} is too long: {_LONGEST.days}d is the most"
        )
    return timedelta(seconds=seconds)


def count(text: str) -> int:
    """Return a whole number that is not negative; for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


# Tasks


def possible(ids: Iterable[int]) -> list[int]:
    """Return those of the ids that a row can have: a database refuses larger ones."""
    return [pk for pk in ids if row_id(str(pk))]


class Found(NamedTuple):
    """A task by its id, as logs call it: it waits or runs, or has ended."""

    task: Task | None
    completed: CompletedTask | None

    @property
    def row(self) -> Task | CompletedTask:
        row = self.task or self.completed
        assert row is not None, "`find` raises"
        return row


def find(pk: int) -> Found:
    """Return the task; raise CommandError if there is none of this id."""
    alias = router.db_for_write(Task)
    completed = CompletedTask.objects.using(alias).filter(task_id=pk)
    # The waiting one first: it may end between the two.
    task = Task.objects.using(alias).filter(pk=pk).first()
    found = Found(task, None if task else completed.order_by("-pk").first())
    if found.task is None and found.completed is None:
        raise no_such(pk)
    return found


Doing = Literal["waits", "runs", "succeeded", "failed", "cancelled", "unknown"]


def doing(pk: int) -> Doing:
    """Return what a task does, by its id, or how it has ended."""
    try:
        found = find(pk)
    except CommandError:
        return "unknown"
    if found.task is not None:
        return "runs" if found.task.locked_by else "waits"
    ended: dict[State, Doing] = {
        State.DONE: "succeeded",
        State.FAILED: "failed",
        State.CANCELLED: "cancelled",
    }
    return ended[state_of(found.row, timezone.now())]


def find_completed(pk: int) -> CompletedTask:
    """Return a completed row by its own id; raise CommandError if there is none."""
    alias = router.db_for_write(CompletedTask)
    completed = CompletedTask.objects.using(alias).filter(pk=pk).first()
    if completed is None:
        raise CommandError(_("There is no completed row %(pk)s.") % {"pk": pk})
    return completed


def no_such(pk: int) -> CommandError:
    text = _(
        "There is no task %(pk)s: none waits or runs under this id, and no completed "
        "row tells of it. An id is what logs call a task by, and `tasks_status` shows "
        "those that run."
    )
    return CommandError(text % {"pk": pk})


# What people read


def age(seconds: float | None) -> str:
    """Return seconds as people read them, in two units at most: `37s`, `3h4m`."""
    if seconds is None:
        return "-"
    left = int(seconds)
    parts: list[str] = []
    for unit in "dhms":
        n, left = divmod(left, _UNITS[unit])
        if n or parts or unit == "s":
            parts.append(f"{n}{unit}")
    return "".join(part for part in parts[:2] if part[0] != "0" or len(parts) == 1)


def mib(memory: int | None) -> str:
    """Return bytes in MiB; `-` if they are not known."""
    if memory is None:
        return "-"
    return "<1M" if memory < _MIB else f"{memory / _MIB:.0f}M"


def moment(at: datetime) -> str:
    """Return a moment in the project's time zone, to the second."""
    return f"{display.in_zone(at):%Y-%m-%d %H:%M:%S}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return aligned columns, the first `left` of them to the left."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
