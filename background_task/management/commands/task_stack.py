"""`manage.py task_stack`: where is a task that runs?"""

import re
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router
from django.utils.translation import gettext as _

from background_task import control
from background_task.models import Attempt, Task

from . import _live
from ._family import EX_NOT, Family, Found, add_by, by, find

# Where a task's function is called, and all that has led there; the last call is first.
_MACHINERY = re.compile(
    r'^  File "[^"\n]*background_task.proxy\.py", line \d+ in call\n'
    r'  File "[^"\n]*background_task.execution\.py", line \d+ in _call\n'
    r"(?:  .*\n?)*",
    re.MULTILINE,
)


class Command(Family):
    help = (
        "Print the Python stack, of all its threads, of a task that runs, wherever it "
        "does; it goes on. The process writes it down itself when it is asked: no "
        "ptrace, no privileges. Of a task that has ended: the stack that was kept, if "
        "it was stopped or crashed. The lines beneath the task's own, which are the "
        "runner's, are left out."
    )
    examples = """\
  manage.py task_stack 4711               where it is now
  manage.py task_stack 4711 --all         with what has called it
  manage.py task_stack 4711; sleep 5; manage.py task_stack 4711    is it moving?
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", type=int, metavar="ID", help="a task, as logs call it"
        )
        parser.add_argument(
            "--all", action="store_true", help="also the lines that are the runner's"
        )
        add_by(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        found = find(options["id"])
        if found.task is None or not found.task.locked_by:
            self._kept(options["id"], found, is_all=options["all"])
            return
        told = _live.ask("stack", control.ask_stack, found.task, by(options))
        if told is None:
            if not _live.is_running(found.task.pk):
                self._kept(options["id"], find(options["id"]), is_all=options["all"])
                return
            raise CommandError(_live.why_silent(found.task), returncode=EX_NOT)
        if not told.get("told", True):
            raise CommandError(told["text"], returncode=EX_NOT)
        self._tell(told["text"], is_all=options["all"])

    def _tell(self, stack: str, *, is_all: bool) -> None:
        own = stack if is_all else _MACHINERY.sub("", stack)
        self.say(own.rstrip())
        if n := len(stack.splitlines()) - len(own.splitlines()):
            text = _("Left out: %(n)d lines of the runner's. --all shows them.")
            self.remark(text % {"n": n})

    def _kept(self, pk: int, found: Found, *, is_all: bool) -> None:
        """Print what its last try has left."""
        last = Attempt.of(pk, router.db_for_write(Task)).last()
        state = _("waits") if found.task else _("has ended")
        about = {"id": pk, "name": found.row.task_name, "state": state}
        text = _("Task %(id)s (%(name)s) does not run: it %(state)s.") % about
        if last is None or not last.stack:
            raise CommandError(text, returncode=EX_NOT)
        more = _("This is where try %(n)d was when it ended: %(outcome)s")
        about = {"n": last.number, "outcome": last.outcome}
        self.remark(f"{text} {more % about}")
        self._tell(last.stack, is_all=is_all)
