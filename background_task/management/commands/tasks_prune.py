"""`manage.py tasks_prune`: remove completed tasks that need not be kept."""

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _

from background_task import pruning
from background_task.limits import SettingError

from ._family import EX_NOT, Family, count, duration

_MOST_AT_ONCE = 10_000  # tasks: SQLite takes no more than 32,766 keys at once


class Command(Family):
    help = (
        "Remove completed tasks that need not be kept, with the evidence of their "
        "tries, a few in each transaction, so that nobody waits for it. Without a time "
        "it goes by BACKGROUND_TASK_KEEP_COMPLETED, by which running process_tasks do "
        "the same. What waits or runs is never removed."
    )
    examples = """\
  manage.py tasks_prune --older-than 30d --dry-run
  manage.py tasks_prune --older-than 7d --failed-older-than 90d
  manage.py tasks_prune --older-than 1d --queue mail
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=duration,
            metavar="TIME",
            help="what ended longer ago, such as 12h, 7d or 4w",
        )
        parser.add_argument(
            "--failed-older-than",
            type=duration,
            metavar="TIME",
            help="the same of what failed (default: as --older-than)",
        )
        parser.add_argument("--queue", help="tasks of this queue only")
        parser.add_argument(
            "--batch",
            type=count,
            default=pruning.BATCH,
            metavar="N",
            help=f"how many go in one transaction (default: {pruning.BATCH}, at most "
            f"{_MOST_AT_ONCE})",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say how many, and remove nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not 0 < (batch := options["batch"]) <= _MOST_AT_ONCE:
            text = _("--batch is %(n)d: it must be 1 to %(most)d")
            text %= {"n": batch, "most": _MOST_AT_ONCE}
            raise CommandError(text, returncode=2)
        kept, now = _kept(options), timezone.now()
        self.remark_doubts(options)
        for outcome, age in kept.items():
            if age is None:
                continue
            rows = pruning.prunable(now - age, outcome)
            if options["queue"]:
                rows = rows.filter(queue=options["queue"])
            name = _("succeeded") if outcome == "succeeded" else _("failed")
            if options["dry_run"]:
                text = _("Would be removed, of what %(outcome)s: %(n)d")
                self.say(text % {"outcome": name, "n": rows.count()})
            else:
                tasks, attempts = self._prune(rows, batch)
                text = _("Removed, of what %(outcome)s: %(n)d, and %(tries)d tries")
                about = {"outcome": name, "n": tasks, "tries": attempts}
                self.say(text % about)

    def _prune(self, rows: Any, batch: int) -> tuple[int, int]:
        tasks = attempts = 0
        while (pruned := pruning.prune(rows, batch)).tasks:
            tasks += pruned.tasks
            attempts += pruned.attempts
        if pruned.reached is not None:
            self.remark(
                _("Somebody else is removing the rest, or has locked it: ask again.")
            )
        return tasks, attempts


def _kept(options: dict[str, Any]) -> dict[pruning.Outcome, timedelta | None]:
    """Return for how long tasks are kept, by outcome; None: for ever."""
    older, failed_older = options["older_than"], options["failed_older_than"]
    if older is not None or failed_older is not None:
        failed = older if failed_older is None else failed_older
        return {"succeeded": older, "failed": failed}
    try:
        kept = pruning.keep_completed()
    except SettingError as error:
        raise CommandError(str(error), returncode=EX_NOT) from error
    if not any(kept.values()):
        text = _(
            "Say how old, by --older-than or --failed-older-than: "
            "BACKGROUND_TASK_KEEP_COMPLETED is not set."
        )
        raise CommandError(text, returncode=2)
    return kept
