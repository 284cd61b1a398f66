"""`manage.py tasks_pause`: have nothing of a queue run until it is resumed."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from background_task import control, display

from ._family import Family, add_by, by


class Command(Family):
    help = (
        "Have no runner, on any host, start a task of a queue until tasks_resume. What "
        "runs goes on, and tasks may be enqueued meanwhile. It stands however often "
        "runners are restarted."
    )
    examples = """\
  manage.py tasks_pause mail        a queue
  manage.py tasks_pause --no-queue  tasks that are in no queue
  manage.py tasks_pause --all       everything; tasks_resume --all takes it back
"""

    def add_arguments(self, parser: CommandParser) -> None:
        add_queues(parser)
        add_by(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        for queue in targets(options):
            text = _("Paused: %(queue)s")
            if not control.pause(queue, by(options)):
                text = _("Paused already: %(queue)s; tasks_status says by whom")
            self.say(text % {"queue": display.target(queue)})
        self.remark_doubts({"queue": options["queues"]})


def add_queues(parser: CommandParser) -> None:
    """Add the arguments that `targets` reads."""
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="a queue's name")
    parser.add_argument(
        "--all", action="store_true", help="everything, whichever queue it is in"
    )
    parser.add_argument(
        "--no-queue", action="store_true", help="tasks that are in no queue"
    )


def targets(options: dict[str, Any]) -> list[str]:
    """Return what `control` calls the queues that were named."""
    found = list(options["queues"])
    found += [control.EVERY_QUEUE] if options["all"] else []
    found += [control.NO_QUEUE] if options["no_queue"] else []
    if not found:
        text = _("Say which: queues by name, --no-queue or --all.")
        raise CommandError(text, returncode=2)
    return found
