"""`manage.py tasks_health`: is it well? An exit status for probes and cron."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connections, router
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from background_task import control, display, status, waiting
from background_task.models import Task
from background_task.status import Queue, RunnerState, count_text

from ._family import EX_NOT, Family, count, duration, moment, reached
from .tasks_status import not_imported_text

_PATIENCE = 5.0  # seconds for the database


class Command(Family):
    help = (
        "Say whether the tasks are well, in one line and by the exit status: 0 they "
        "are, 1 they are not, 2 it was called wrongly. They are not if the database "
        "does not answer within 5 s, if something is due that no living runner "
        "serves, if something has been due for a minute whose name no tasks.py here "
        "registers, or if a limit that is named here is passed. Without limits a "
        "backlog is no matter, however long, and no runner is needed while nothing is "
        "due; it is told that there is none. Paused queues are left out, and named. "
        "Changes nothing."
    )
    examples = """\
  manage.py tasks_health                    is anybody there to run what is due?
  manage.py tasks_health --max-age 10m      nothing may have been due for longer
  manage.py tasks_health --max-age 1h --max-backlog 5000 --queue mail
  manage.py tasks_health --min-runners 1    somebody has to be there at any time
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--max-age",
            type=duration,
            metavar="TIME",
            help="how long a task may have been due without being run, such as 600, "
            "10m or 1h",
        )
        parser.add_argument(
            "--max-backlog",
            type=count,
            metavar="N",
            help=f"how many tasks may be due in one queue; up to {status.MOST} are "
            "counted",
        )
        parser.add_argument(
            "--min-runners",
            type=count,
            metavar="N",
            help="how many runners must live and take tasks, of a queue that is named, "
            "whether something is due or not",
        )
        parser.add_argument(
            "--queue",
            action="append",
            metavar="NAME",
            help="look at this queue only; may be repeated",
        )
        parser.add_argument(
            "--json", action="store_true", help="print JSON, with keys that stay"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        most = options["max_backlog"]
        if most is not None and most > status.MOST:
            text = _("--max-backlog is %(n)d: %(most)d is the most that is counted")
            about = {"n": most, "most": status.MOST}
            raise CommandError(text % about, returncode=2)
        try:
            with reached(), _impatient():
                self.remark_doubts(options)
                why, about = self._look(options)
        except CommandError as error:
            why, about = [str(error)], {}
        self._tell(why, about, as_json=options["json"])

    def _look(self, options: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Return what is wrong, and what was seen."""
        now = timezone.now()
        queues = status.queues(now, options["queue"])
        runners = status.runners()
        before = now - status.FOR_OTHERS
        strange = status.unregistered(before, options["queue"], paused=False)
        due = [queue for queue in queues if not queue.is_paused]
        ages = [(age, queue) for queue in due if (age := queue.age(now)) is not None]
        why = [
            *_too_few(runners, options["min_runners"], options["queue"]),
            *_nobody(due, runners),
            *([status.unregistered_text(strange)] if strange else []),
            *_too_old(ages, options["max_age"]),
            *_too_many(due, options["max_backlog"]),
        ]
        return why, {
            "runners": sum(runner.is_serving for runner in runners),
            "due": sum(queue.due for queue in due),
            "at_least": any(queue.due > status.MOST for queue in due),
            "oldest_due_seconds": max((age for age, _queue in ages), default=None),
            "paused": [queue.name for queue in queues if queue.is_paused],
            "everything_paused": _pause_of_all(),
            "unregistered": strange and [one.name for one in strange],
        }

    def _tell(self, why: list[str], about: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            self.say_json({"healthy": not why, "why": why, **about})
        elif not why:
            self.say(_well(about))
        if about and about["unregistered"] is None:
            self.remark(not_imported_text())
        if why:
            text = "; ".join(why) + _paused_text(about)
            raise CommandError(text, returncode=EX_NOT)


def _too_few(
    runners: list[RunnerState], least: int | None, names: list[str] | None
) -> Iterator[str]:
    if least is None:
        return
    serving = [runner for runner in runners if runner.is_serving]
    wanted: list[str | None] = [*names] if names else [None]
    for name in wanted:
        able = [one for one in serving if name is None or name in one.served]
        if len(able) < least:
            text = _("runners that take tasks: %(n)d, under --min-runners %(least)d")
            if name is not None:
                text += _(", of queue %(queue)s")
            yield text % {"n": len(able), "least": least, "queue": name}


def _nobody(due: list[Queue], runners: list[RunnerState]) -> Iterator[str]:
    for queue in due:
        if status.unserved(queue, runners):
            yield ngettext(
                "%(due)s, and no living runner serves it",
                "%(due)s, and no living runner serves them",
                queue.due,
            ) % {"due": _due_text(queue)}


def _too_old(ages: list[tuple[float, Queue]], limit: timedelta | None) -> Iterator[str]:
    if limit is None or not ages:
        return
    age, queue = max(ages, key=lambda one: one[0])
    if age > limit.total_seconds():
        yield _(
            "the oldest due task is %(age)d s old, over --max-age %(limit)d, in "
            "%(place)s"
        ) % {
            "age": age,
            "limit": limit.total_seconds(),
            "place": display.place(queue.name),
        }


def _too_many(due: list[Queue], limit: int | None) -> Iterator[str]:
    for queue in due:
        if limit is not None and queue.due > limit:
            yield _("%(due)s, over --max-backlog %(limit)d") % {
                "due": _due_text(queue),
                "limit": limit,
            }


def _due_text(queue: Queue) -> str:
    return ngettext(
        "%(n)s task in %(place)s is due", "%(n)s tasks in %(place)s are due", queue.due
    ) % {"n": count_text(queue.due), "place": display.place(queue.name)}


def _pause_of_all() -> dict[str, Any] | None:
    row = control.paused().filter(target=control.EVERY_QUEUE).first()
    return None if row is None else {"by": row.by, "since": row.at}


def _well(about: dict[str, Any]) -> str:
    if about["everything_paused"]:
        text = _("Well as far as can be told: nothing is begun; runners: %(runners)d")
        return text % about + _paused_text(about)
    if not about["runners"]:  # else something would be unserved
        text = _("Well: nothing is due, but no runner is up to take what comes")
        return text + _paused_text(about)
    text = _("Well: runners: %(runners)d; due: %(due)s") % {
        "runners": about["runners"],
        "due": f"{about['due']}{'+' if about['at_least'] else ''}",
    }
    if about["oldest_due_seconds"] is not None:
        text += _(", the oldest for %(age)d s") % {"age": about["oldest_due_seconds"]}
    return text + _paused_text(about)


def _paused_text(about: dict[str, Any]) -> str:
    if every := about.get("everything_paused"):
        text = _("; everything is paused, by %(by)s, since %(at)s")
        return text % {"by": every["by"], "at": moment(every["since"])}
    if not about.get("paused"):
        return ""
    names = ", ".join(display.called(name) for name in about["paused"])
    return _("; paused, and left out: %(queues)s") % {"queues": names}


@contextmanager
def _impatient() -> Iterator[None]:
    """Wait for no database longer than a probe may, unless it is connected already."""
    connection = connections[router.db_for_write(Task)]
    if connection.connection is not None or connection.vendor == "sqlite":
        yield
        return
    # Its own for a moment: the settings are those of all connections of this process.
    everybodys = connection.settings_dict
    wrappers = list(connection.execute_wrappers)
    connection.settings_dict = copy.deepcopy(everybodys)
    waiting.limit(connection, _PATIENCE)
    try:
        connection.ensure_connection()
        waiting.impose(connection, _PATIENCE)
        yield
    finally:
        connection.close()
        connection.settings_dict = everybodys
        connection.execute_wrappers[:] = wrappers
