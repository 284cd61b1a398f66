"""`manage.py tasks_resume`: take a pause back."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from background_task import control, display

from ._family import EX_NOT, Family
from .tasks_pause import add_queues, targets


class Command(Family):
    help = (
        "Take back what tasks_pause has said of a queue: runners go on with it at "
        "once. --all takes back the pause of everything, and leaves those of single "
        "queues."
    )
    examples = """\
  manage.py tasks_resume mail       a queue
  manage.py tasks_resume --all      what tasks_pause --all has paused
"""

    def add_arguments(self, parser: CommandParser) -> None:
        add_queues(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        not_paused = []
        for target in targets(options):
            if control.resume(target):
                self.say(_("Resumed: %(queue)s") % {"queue": display.target(target)})
            else:
                not_paused.append(display.target(target))
        if still := [display.target(row.target) for row in control.paused()]:
            text = _("Still paused: %(queues)s")
            self.remark(text % {"queues": ", ".join(still)})
        if not_paused:
            text = _("Not paused: %(queues)s") % {"queues": ", ".join(not_paused)}
            raise CommandError(text, returncode=EX_NOT)
