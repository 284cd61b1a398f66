"""`manage.py tasks_retry`: have tasks that failed tried again."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _

from background_task import control
from background_task.models import CompletedTask, Task
from background_task.states import State, in_state

from ._family import EX_NOT, Family, doing, duration, possible


class Command(Family):
    help = (
        "Have tasks that failed for good wait again, under their ids and with all "
        "their attempts; their completed rows go, so that nothing is retried twice. "
        "With --waiting instead: have tasks that wait for their next try, or that were "
        "given up in place, be due now; by its id, one that waits for its first try, "
        "too. What succeeded and what runs is left alone. So is what somebody has "
        "cancelled, unless its id is given."
    )
    examples = """\
  manage.py tasks_retry 4711 4712               these tasks, by the ids in the log
  manage.py tasks_retry --failed-since 2h --dry-run
  manage.py tasks_retry --failed-since 1d --name shop.tasks.send_receipt
  manage.py tasks_retry --waiting --queue mail  do not wait for the back-off
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "ids", nargs="*", type=int, metavar="ID", help="a task, as logs call it"
        )
        parser.add_argument(
            "--completed",
            action="store_true",
            help="the ids are those of completed rows, the only id that rows of 1.2.8 "
            "have",
        )
        parser.add_argument(
            "--failed-since",
            type=duration,
            metavar="TIME",
            help="what has failed within this time, such as 2h or 1d",
        )
        parser.add_argument("--name", help="tasks of this name only")
        parser.add_argument("--queue", help="tasks of this queue only")
        parser.add_argument(
            "--all", action="store_true", help="every one, if no filter is given"
        )
        parser.add_argument(
            "--waiting",
            action="store_true",
            help="have tasks that wait for their next try be due now, instead of what "
            "failed for good",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say how many, and change nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        _check(options)
        self.remark_doubts(options)
        rows = _waiting(options) if options["waiting"] else _failed(options)
        column = "pk" if options["waiting"] else "task_id"
        found = dict(rows.order_by("pk").values_list("pk", column))
        if options["dry_run"]:
            waiting = options["waiting"]
            text = _("Would be due: %(n)d") if waiting else _("Would wait again: %(n)d")
            self.say(text % {"n": len(found)})
        else:
            found = self._retry(found, options)
        why = [_why_not(pk, options) for pk in _missed(found, options)]
        if why:
            raise CommandError("\n".join(why), returncode=EX_NOT)

    def _retry(
        self, found: dict[int, int | None], options: dict[str, Any]
    ) -> dict[int, int | None]:
        """Return those that were: another may have been quicker."""
        if options["waiting"]:
            n = control.run_now(found)
            self.say(_("Due now: %(n)d") % {"n": n})
            if n == len(found):
                return found
            return dict(_waiting(options).values_list("pk", "pk"))
        new = control.retry(found)
        for row, pk in new.items():
            self.say(_again_text(row, found[row], pk))
        self.say(_("Waiting again: %(n)d") % {"n": len(new)})
        return {row: found[row] for row in new}


def _again_text(row: int, former: int | None, pk: int) -> str:
    about = {"former": former, "row": row, "pk": pk}
    if former is None:  # a row of 1.2.8
        return _("Completed row %(row)s waits again as task %(pk)s.") % about
    if former == pk:
        return _("Task %(pk)s waits again.") % about
    return _("Task %(former)s waits again as task %(pk)s: its id is taken.") % about


def _missed(found: dict[int, int | None], options: dict[str, Any]) -> list[int]:
    """Return the ids that were given and are of nothing that could be tried again."""
    ids = found if options["completed"] else found.values()
    return sorted(set(options["ids"]).difference(ids))


def _why_not(pk: int, options: dict[str, Any]) -> str:
    if options["completed"]:
        return _("Completed row %(id)s has succeeded, or is gone.") % {"id": pk}
    texts = {
        "waits": _("Task %(id)s waits: tasks_retry --waiting %(id)s has it due now."),
        "runs": _("Task %(id)s runs."),
        "succeeded": _("Task %(id)s has succeeded."),
        "failed": _("Task %(id)s has failed for good: leave out --waiting."),
        "cancelled": _("Task %(id)s has been cancelled: leave out --waiting."),
        "unknown": _("There is no task %(id)s."),
    }
    return texts[doing(pk)] % {"id": pk}


def _check(options: dict[str, Any]) -> None:
    """Refuse what says too little, or two things at once."""
    filters = [options[name] for name in ("failed_since", "name", "queue")]
    if not options["ids"] and not any(filters) and not options["all"]:
        text = _("Say which: ids, --failed-since, --name, --queue or --all.")
        raise CommandError(text, returncode=2)
    if options["ids"] and (any(filters) or options["all"]):
        text = _("Ids and filters do not go together: give one or the other.")
        raise CommandError(text, returncode=2)
    if options["waiting"] and (options["failed_since"] or options["completed"]):
        text = _("--waiting is of tasks that have not failed for good: leave out %s.")
        other = "--completed" if options["completed"] else "--failed-since"
        raise CommandError(text % other, returncode=2)


def _failed(options: dict[str, Any]) -> Any:
    rows = CompletedTask.objects.using(router.db_for_write(CompletedTask))
    if options["ids"]:
        column = "pk__in" if options["completed"] else "task_id__in"
        return rows.failed().filter(**{column: possible(options["ids"])})
    rows = rows.filter(in_state(State.FAILED, timezone.now(), completed=True))
    if options["failed_since"]:
        rows = rows.filter(failed_at__gt=timezone.now() - options["failed_since"])
    return _narrowed(rows, options)


def _waiting(options: dict[str, Any]) -> Any:
    rows = Task.objects.using(router.db_for_write(Task)).filter(locked_by=None)
    if options["ids"]:
        return rows.filter(pk__in=possible(options["ids"]))
    again = rows.filter(attempts__gt=0) | rows.exclude(failed_at=None)
    return _narrowed(again, options)


def _narrowed(rows: Any, options: dict[str, Any]) -> Any:
    if options["name"]:
        rows = rows.filter(task_name=options["name"])
    return rows.filter(queue=options["queue"]) if options["queue"] else rows
