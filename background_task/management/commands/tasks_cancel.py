"""`manage.py tasks_cancel`: have tasks that wait, or run, never run again."""

from collections.abc import Collection
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router
from django.utils.translation import gettext as _

from background_task import control
from background_task.exceptions import last_line
from background_task.models import HELD_BY_PID, Task

from ._family import EX_NOT, Family, add_by, by, doing, find, possible
from ._live import why_silent


class Command(Family):
    help = (
        'Complete tasks that wait as failed, with "Cancelled by …" as their error; a '
        "chain of repeats ends with them. What runs is left alone; with --running it "
        "is asked to stop wherever it does, killed after its grace, and never tried "
        "again, while its chain of repeats goes on. tasks_retry ID takes a "
        "cancellation back."
    )
    examples = """\
  manage.py tasks_cancel 4711               one that waits
  manage.py tasks_cancel --running 4711     and if it runs, stop it
  manage.py tasks_cancel --queue mail --name shop.tasks.remind --dry-run
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "ids", nargs="*", type=int, metavar="ID", help="a task, as logs call it"
        )
        parser.add_argument("--name", help="tasks of this name only")
        parser.add_argument("--queue", help="tasks of this queue only")
        parser.add_argument(
            "--all", action="store_true", help="every one, if no filter is given"
        )
        parser.add_argument(
            "--running", action="store_true", help="also stop those that run"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say how many, and change nothing"
        )
        add_by(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        rows = _chosen(options).order_by("pk")
        self.remark_doubts(options)
        waiting = list(rows.filter(locked_by=None).values_list("pk", flat=True))
        running = list(rows.exclude(locked_by=None).values_list("pk", flat=True))
        silent = set(rows.filter(HELD_BY_PID).values_list("pk", flat=True))
        can_be_asked = [pk for pk in running if pk not in silent]
        asked = can_be_asked if options["running"] else []
        if options["dry_run"]:
            self._tell(_("Would be cancelled: %(n)d"), len(waiting))
            self._tell(_("Would be asked to stop: %(n)d"), len(asked))
        else:
            # Those that run first: what ends meanwhile is cancelled by its runner.
            stopped = control.stop(asked, by(options))
            cancelled = control.cancel(waiting, by(options))
            self._tell(_("Cancelled: %(n)d"), cancelled)
            if options["running"]:
                self._tell(_("Asked to stop: %(n)d"), stopped)
            if options["ids"] and cancelled < len(waiting):  # some have begun since
                running += rows.filter(pk__in=waiting).values_list("pk", flat=True)
        left = sorted(set(running).difference(asked))
        if not options["ids"]:
            self._tell_left(left, silent.intersection(left))
            return
        missed = sorted(set(options["ids"]).difference(waiting, running))
        if why := [_why_not(pk) for pk in [*left, *missed]]:
            raise CommandError("\n".join(why), returncode=EX_NOT)

    def _tell_left(self, left: Collection[int], silent: Collection[int]) -> None:
        if n := len(left) - len(silent):
            text = _("Left alone, since they run: %(n)d. --running stops them too.")
            self.remark(text % {"n": n})
        if silent:
            text = _(
                "Left alone, since they run in-process or by 1.2.8, where nobody can "
                "be asked: %(n)d."
            )
            self.remark(text % {"n": len(silent)})

    def _tell(self, text: str, n: int) -> None:
        self.say(text % {"n": n})


def _why_not(pk: int) -> str:
    texts = {
        "waits": _("Task %(id)s waits, and did not a moment ago."),
        "runs": _("Task %(id)s runs: tasks_cancel --running %(id)s stops it."),
        "succeeded": _("Task %(id)s has succeeded."),
        "failed": _("Task %(id)s has failed for good."),
        "cancelled": _("Task %(id)s has been cancelled already: %(error)s."),
        "unknown": _("There is no task %(id)s."),
    }
    what = doing(pk)
    if what == "runs":
        tasks = Task.objects.using(router.db_for_write(Task)).filter(HELD_BY_PID, pk=pk)
        if (task := tasks.first()) is not None:
            return why_silent(task)
    error = last_line(find(pk).row.last_error) if what == "cancelled" else ""
    return texts[what] % {"id": pk, "error": error}


def _chosen(options: dict[str, Any]) -> Any:
    rows = Task.objects.using(router.db_for_write(Task)).all()
    filters = {
        column: options[name]
        for name, column in (("name", "task_name"), ("queue", "queue"))
        if options[name]
    }
    if options["ids"] and (filters or options["all"]):
        text = _("Ids and filters do not go together: give one or the other.")
        raise CommandError(text, returncode=2)
    if options["ids"]:
        return rows.filter(pk__in=possible(options["ids"]))
    if not filters and not options["all"]:
        text = _("Say which: ids, --name, --queue or --all.")
        raise CommandError(text, returncode=2)
    return rows.filter(**filters)
