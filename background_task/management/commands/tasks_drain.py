"""`manage.py tasks_drain`: have a runner end, from afar."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from background_task import control, status
from background_task.status import RunnerState

from ._family import EX_NOT, Family, add_by, by


class Command(Family):
    help = (
        "Have a runner end as by SIGTERM, wherever it is: it claims no more, lets what "
        "runs finish for its drain time, then stops that and gives it back at no "
        "attempt's cost. Whether it is started again is up to what started it."
    )
    examples = """\
  manage.py tasks_drain 3fa94c21       by its id in tasks_status, or how that begins
  manage.py tasks_drain --host web-1   every runner of a host
  manage.py tasks_drain --all          every runner there is
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "runners", nargs="*", metavar="RUNNER", help="its id, or how that begins"
        )
        parser.add_argument("--host", help="every runner of this host")
        parser.add_argument("--all", action="store_true", help="every runner there is")
        add_by(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        gone = []
        for runner in _chosen(status.runners(), options):
            about = {"id": runner.id[:8], "host": runner.host, "pid": runner.pid}
            if control.drain(runner.id, by(options)):
                self.say(_("Asked to drain: %(id)s (%(host)s %(pid)d)") % about)
            else:
                gone.append(_("Gone meanwhile: %(id)s (%(host)s %(pid)d)") % about)
        if gone and options["runners"]:
            raise CommandError("\n".join(gone), returncode=EX_NOT)
        for text in gone:
            self.remark(text)


def _chosen(runners: list[RunnerState], options: dict[str, Any]) -> list[RunnerState]:
    if options["all"]:
        if not runners:
            text = _("No runner is up: see tasks_status.")
            raise CommandError(text, returncode=EX_NOT)
        return runners
    if not options["runners"] and not options["host"]:
        text = _("Say which: runners by id, --host or --all.")
        raise CommandError(text, returncode=2)
    chosen = [runner for runner in runners if runner.host == options["host"]]
    if options["host"] and not chosen:
        text = _("No runner is on host %(host)s: see tasks_status.")
        raise CommandError(text % options, returncode=EX_NOT)
    for begin in options["runners"]:
        found = [runner for runner in runners if runner.id.startswith(begin)]
        if len(found) != 1:
            text = _(
                "%(n)d runners have an id that begins with %(id)s; name one of %(ids)s."
            )
            ids = ", ".join(runner.id[:8] for runner in runners) or _("none")
            about = {"n": len(found), "id": begin, "ids": ids}
            raise CommandError(text % about, returncode=EX_NOT)
        chosen += found
    return chosen
