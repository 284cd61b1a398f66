"""What does the dashboard ask of the database, and what does it make of the answers?

Whatever the tables hold, a look costs the same: counts end at `COUNTED`, and what is
said of tries is said of the newest `TRIES` of the last day. What costs more than a
moment is kept for some seconds in this process, however many tabs are open.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import QuerySet
from django.utils import timezone

from background_task import control
from background_task.models import Control, Task
from background_task.status import Unregistered

from .counts import COUNTED, Count
from .depth import QUEUES, Depth, Queue, ask_depth
from .kept import Kept
from .runners import ROWS, Running, Seen, ask_runners, ask_running, ask_strangers
from .tries import TRIES, Tries, ask_tries

__all__ = [
    "COUNTED",
    "QUEUES",
    "TRIES",
    "Count",
    "Dashboard",
    "Queue",
    "forget",
    "look",
]

_DEPTH_KEPT, _TRIES_KEPT = 2.0, 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What there is to see."""

    at: datetime
    depth: Depth
    queues: list[Queue]
    every_queue: Control | None  # the pause of all
    runners: list[Seen]
    running: list[Running]  # as far as it is shown
    told: int  # how many tasks the runners tell of: they have run for a second
    locked: Count
    strangers: Count  # of the locked ones, those that no runner holds
    tries: Tries
    unregistered: list[Unregistered]  # nothing is known if it is empty

    @property
    def alive(self) -> list[Seen]:
        """The runners that are heard of."""
        return [runner for runner in self.runners if runner.is_alive]

    @property
    def claiming(self) -> list[Seen]:
        """The runners that take tasks."""
        return [runner for runner in self.runners if runner.claims]

    @property
    def slots(self) -> int:
        """How many tasks the living runners run at a time, as far as they say."""
        return sum(runner.row.slots or 0 for runner in self.alive)

    @property
    def shown_runners(self) -> list[Seen]:
        """The runners in the table."""
        return self.runners[:ROWS]

    @property
    def more_runners(self) -> int:
        """How many runners are not in the table."""
        return len(self.runners) - len(self.shown_runners)

    @property
    def more(self) -> int:
        """How many tasks run that are not shown."""
        return self.told - len(self.running)

    @property
    def brief(self) -> Count:
        """How many tasks runners hold that have not been running for a second."""
        number = self.locked.number - self.told - self.strangers.number
        return Count(max(0, number), self.locked.is_all)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest task that is due, of a queue that rests not, was due."""
        known = [q.oldest for q in self.queues if q.oldest and not self.rests(q)]
        return min(known, default=None)

    def rests(self, queue: Queue) -> bool:
        """Return whether nothing of a queue is claimed since somebody paused it."""
        return bool(self.every_queue or queue.pause)


_depth = Kept(_DEPTH_KEPT, ask_depth)
_tries = Kept(_TRIES_KEPT, ask_tries)


def look() -> Dashboard:
    """Ask for everything; what costs more than a moment may be some seconds old."""
    asked = list(_asked()[:COUNTED])
    runners, depth = ask_runners(asked), _depth()
    pauses = {row.target: row for row in asked if row.verb == Control.Verb.PAUSE}
    unregistered = depth.unregistered(list(pauses.values()))
    every_queue = pauses.pop(control.EVERY_QUEUE, None)
    running, told = ask_running(runners, asked)
    return Dashboard(
        at=timezone.now(),
        depth=depth,
        queues=list(_queues(depth, pauses, runners)),
        every_queue=every_queue,
        runners=runners,
        running=running,
        told=told,
        locked=Count.of(Task.objects.filter(locked_by__isnull=False)),
        strangers=ask_strangers(),
        tries=_tries(),
        unregistered=unregistered,
    )


def _asked() -> QuerySet[Control]:
    """Return what is asked of queues, tasks and runners, but not their answers."""
    verbs = Control.Verb.PAUSE, Control.Verb.STOP, Control.Verb.DRAIN
    return Control.objects.filter(verb__in=verbs).order_by("target").defer("answer")


def forget() -> None:
    """Have the next look ask anew for all."""
    _depth.forget()
    _tries.forget()


def _queues(
    depth: Depth, pauses: dict[str, Control], runners: Iterable[Seen]
) -> Iterator[Queue]:
    """Yield the queues in which something waits, that are paused, or served by name."""
    named = {name for one in runners if one.is_alive for name in one.row.served.queues}
    idle = {*map(control.queue_of, pauses), *named}.difference(depth.queues)
    for name in [*depth.queues, *sorted(idle, key=lambda name: name or "")]:
        queue = depth.queues.get(name) or Queue(name, Count(0), Count(0), None)
        yield replace(
            queue,
            is_served=any(runner.serves(name) for runner in runners),
            pause=pauses.get(queue.target),
        )
