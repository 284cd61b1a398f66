"""Which completed tasks need not be kept any more, and how are they removed?

A few at a time, each few in a transaction of their own, with the tries of theirs that
are in the books. Called by the bookkeepers, by what BACKGROUND_TASK_KEEP_COMPLETED
says, and by whoever else wants to clean up.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import connections, models, router, transaction
from django.db.models import Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from .limits import SettingError
from .models import Attempt, CompletedTask
from .settings import app_settings

Outcome = Literal["succeeded", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed")

BATCH = 500  # tasks that one transaction removes
_MOST_DAYS = 36_500
_FROM_THE_TOP_EVERY = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows were removed, and when the last of the tasks had ended."""

    tasks: int = 0
    attempts: int = 0  # rows of `Attempt`: their tries
    reached: datetime | None = None


def prunable(
    before: datetime, outcome: Outcome | None = None
) -> models.QuerySet[CompletedTask]:
    """Return the tasks that came to their end before a moment, of any or one outcome.

    The oldest first. To be counted, filtered further, such as by `queue`, or handed to
    `prune`.
    """
    tasks = CompletedTask.objects.using(router.db_for_write(CompletedTask))
    if outcome == "failed":
        return tasks.filter(failed_at__lt=before).order_by("failed_at")
    ended = tasks.filter(run_at__lt=before).order_by("run_at")
    if outcome is None:
        return ended
    # As no index can answer it: SQLite would take that of `failed_at`, where nearly all
    # are NULL, and sort what it finds.
    moment = models.DateTimeField()
    nothing = Coalesce("failed_at", Value(None), output_field=moment)
    return ended.alias(failure=nothing).filter(failure=None)


def prune(tasks: models.QuerySet[CompletedTask], limit: int = BATCH) -> Pruned:
    """Remove the first `limit` of these, with their tries; return how many rows.

    None of them: there are no more, or another is at it. What another has locked is
    passed over, and only rows are locked that are removed, each by its key, so that
    nobody waits for this but one who wants them.
    """
    alias = tasks.db
    # Not locked yet: reading by the index would lock what is between them, on MySQL.
    ended = dict(tasks.values_list("pk", "run_at")[:limit])
    if not ended:
        return Pruned()
    with transaction.atomic(using=alias):
        rows = CompletedTask.objects.using(alias).filter(pk__in=list(ended))
        locked = dict(_lock(rows).values_list("pk", "task_id"))
        task_ids = [task_id for task_id in locked.values() if task_id is not None]
        tries = Attempt.objects.using(alias).filter(task_id__in=task_ids).order_by()
        attempts = _delete(Attempt, list(tries.values_list("pk", flat=True)), alias)
        removed = _delete(CompletedTask, list(locked), alias)
        return Pruned(removed, attempts, max(ended.values()))


class Pruner:
    """Removes what the setting says need not be kept, a few at a time.

    It remembers how far it has come among what succeeded. Each look would else begin
    with the failures that are as old and are kept: 50,000 of them made it 0.3 s.
    """

    def __init__(self) -> None:
        self._reached: datetime | None = None
        self._from_the_top_at = 0.0

    def prune(self, limit: int = BATCH) -> int:
        """Remove at most `limit` tasks, with their tries; return how many."""
        pruned, now = 0, timezone.now()
        if time.monotonic() >= self._from_the_top_at:  # for what was locked by another
            self._reached = None
            self._from_the_top_at = time.monotonic() + _FROM_THE_TOP_EVERY
        for outcome, kept in keep_completed().items():
            if kept is not None and pruned < limit:
                pruned += self._prune(outcome, now - kept, limit - pruned)
        return pruned

    def _prune(self, outcome: Outcome, before: datetime, limit: int) -> int:
        tasks = prunable(before, outcome)
        if outcome == "failed":
            return prune(tasks, limit).tasks
        if self._reached is not None:
            tasks = tasks.filter(run_at__gte=self._reached)
        pruned = prune(tasks, limit)
        self._reached = pruned.reached or self._reached
        return pruned.tasks


def keep_completed() -> dict[Outcome, timedelta | None]:
    """Return for how long tasks are kept by outcome; None: for ever.

    Raises SettingError for a value of the setting that cannot be.
    """
    said: Any = app_settings.BACKGROUND_TASK_KEEP_COMPLETED
    if not isinstance(said, Mapping):
        return dict.fromkeys(OUTCOMES, _days(said, "BACKGROUND_TASK_KEEP_COMPLETED"))
    if unknown := set(said) - set(OUTCOMES):
        raise SettingError(
            f"BACKGROUND_TASK_KEEP_COMPLETED has {sorted(map(str, unknown))}: its keys "
            "must be 'succeeded' and 'failed'"
        )
    return {
        outcome: _days(
            said.get(outcome), f"BACKGROUND_TASK_KEEP_COMPLETED[{outcome!r}]"
        )
        for outcome in OUTCOMES
    }


def _days(said: Any, source: str) -> timedelta | None:
    if said is None or (said == 0 and not isinstance(said, bool)):
        return None
    number = isinstance(said, int | float) and not isinstance(said, bool)
    if not number or not math.isfinite(said) or not 0 < said <= _MOST_DAYS:
        raise SettingError(
            f"{source} is {said!r}: it must be a number of days, or None or 0 to keep "
            "everything"
        )
    return timedelta(days=said)


def _lock(rows: models.QuerySet[CompletedTask]) -> models.QuerySet[CompletedTask]:
    features = connections[rows.db].features
    if not features.has_select_for_update:
        return rows
    skip = features.has_select_for_update_skip_locked
    return rows.select_for_update(skip_locked=skip)


def _delete(model: type[models.Model], keys: list[int], alias: str) -> int:
    """Delete these rows, in as many statements as the database needs for the keys.

    With what points at them, as its `on_delete` says: rows of the project's own.
    """
    deleted = 0
    for some in _slices(keys, BATCH):
        rows = model._base_manager.using(alias).filter(pk__in=some)
        _, by_model = rows.delete()
        deleted += by_model.get(model._meta.label, 0)
    return deleted


def _slices(keys: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
