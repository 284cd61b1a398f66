"""What waits in the queues, and how much of it is due?

`status` counts each queue on its own, with some statements for each. Here one statement
reads what has been due longest, and all queues share its limit.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.db.models.expressions import Combinable
from django.utils import timezone

from background_task import control, names
from background_task.indexes import WAITING
from background_task.inuse import queues_of
from background_task.models import Control, Task
from background_task.status import FOR_OTHERS, Unregistered

from . import counts
from .counts import Count, slug

QUEUES = 50


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits in a queue; in none if it has no name."""

    name: str | None
    waiting: Count
    due: Count
    oldest: datetime | None  # of the due ones, the moment at which it was
    is_served: bool = False
    pause: Control | None = None

    @property
    def target(self) -> str:
        """What `control.pause` calls it."""
        return control.NO_QUEUE if self.name is None else self.name

    @property
    def key(self) -> str:
        """What tells its row from others in a page."""
        return "" if self.name is None else f"-{slug(self.name)}"


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits, by queue, and how much of it is due."""

    queues: dict[str | None, Queue]
    due: Count
    has_more: bool  # queues
    # Of those due ones that others have had time for: how many have a name that is not
    # registered here, by name and queue.
    strange: dict[tuple[str, str | None], int]

    def unregistered(self, pauses: Collection[Control]) -> list[Unregistered]:
        """Return the names that nobody here registers, of queues that do not rest."""
        due: Counter[str] = Counter()
        for (name, queue), n in sorted(self.strange.items(), key=str):
            if not control.pause_of(queue, pauses):
                due[name] += n
        return [
            Unregistered(name=name, due=n, is_all=self.due.is_all)
            for name, n in due.most_common()
        ]


def ask_depth() -> Depth:
    """Ask the database what waits."""
    now, registered = timezone.now(), names.registered()
    due: Counter[str | None] = Counter()
    first: dict[str | None, int] = {}
    strange: Counter[tuple[str, str | None]] = Counter()
    # Which of them wait is not asked of the database: SQLite and MariaDB would go by an
    # index of that, and sort all that wait.
    rows = Task.objects.filter(run_at__lte=now).order_by("run_at")
    columns = rows.annotate(late=_is_late(now)).values_list(
        "queue", "pk", "locked_by", "failed_at", "task_name", "late"
    )
    found = list(columns[: counts.COUNTED + 1])
    for queue, pk, locked_by, failed_at, name, late in found[: counts.COUNTED]:
        if locked_by is None and failed_at is None:
            due[queue] += 1
            first.setdefault(queue, pk)
            if late and registered is not None and name not in registered:
                strange[name, queue] += 1
    oldest = dict(_moments(list(first.values())[:QUEUES]))
    total = Count(due.total(), len(found) <= counts.COUNTED)
    # Those in which something is due come first, where not all can be shown.
    called = dict.fromkeys([*first, *queues_of(Task.objects.all(), QUEUES + 1)])
    called.pop(None, None)
    shown = sorted(name for name in list(called)[:QUEUES] if name is not None)
    # One of which everything runs is to be seen, too: it may have to be paused.
    running = Task.objects.exclude(locked_by=None).values_list("queue", flat=True)
    held = set(running[: counts.COUNTED])
    queues = {
        name: Queue(
            name=name,
            waiting=waiting,
            due=Count(due[name], total.is_all),
            oldest=oldest.get(first.get(name)),
        )
        for name in (None, *shown)
        if (waiting := Count.of(_waiting().filter(queue=name))) or name in held
    }
    return Depth(
        queues=queues, due=total, has_more=len(called) > QUEUES, strange=dict(strange)
    )


def _is_late(now: datetime) -> Combinable:
    """Say in the database whether a task has been due long enough for any runner."""
    return ExpressionWrapper(
        Q(run_at__lte=now - FOR_OTHERS), output_field=BooleanField()
    )


def _moments(pks: Sequence[int]) -> Iterable[tuple[int | None, datetime]]:
    return Task.objects.filter(pk__in=pks).values_list("pk", "run_at")


def _waiting() -> QuerySet[Task]:
    tasks: QuerySet[Task] = Task.objects.filter(WAITING)
    return tasks
