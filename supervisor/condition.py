"""How is the runner, as its supervisor's loop sees it, and how is that said?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import clock
from .lease import SILENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What is told to the service manager, to a file, to the monitor and by `ps`."""

    at: float = field(default_factory=clock.now)
    failure: str = ""  # why it cannot go on
    stopping: bool = False  # it claims no more
    set_up: bool = True  # it is known which tasks there are
    lease: float = 30.0  # seconds
    lease_age: float | None = None  # seconds since it was renewed last; None: never
    unavailable: bool = False  # the queue
    whole: bool = True  # none of its processes is being replaced
    paused: str = ""  # what a person has paused; that alone makes it not unready
    workers: int = 1
    running: Mapping[str, int] = field(default_factory=dict)  # tries, by queue
    held: int = 0  # tries that are claimed and not yet recorded
    queues: tuple[str, ...] = ()  # that the project's tasks name

    @property
    def why_not(self) -> str:
        """Say why no task would be claimed now; nothing if it would be."""
        age = self.lease_age
        if self.failure:
            return self.failure.partition("\n")[0]
        if self.stopping:
            return "it is told to stop, and claims no more"
        if not self.set_up:
            return "the project is being set up"
        if age is None:
            return "the queue has not been reached yet"
        if self.unavailable or age > self.lease * SILENCE:
            return f"the queue is unavailable, and was reached {age:.0f} s ago"
        return "" if self.whole else "a process of the runner is being replaced"

    @property
    def works(self) -> bool:
        """Has its start come to an end? What it waits for is the database at most."""
        return self.set_up and (self.lease_age is not None or self.unavailable)

    @property
    def status(self) -> str:
        """Say in one line how it is."""
        busy = f"{sum(self.running.values())} of {self.workers} workers busy"
        status = f"{busy}, {self.held} tasks held"
        if self.stopping:
            status = f"Stopping: {status}"
        return f"{status}; the database is away" if self.unavailable else status

    def to_message(self) -> dict[str, Any]:
        """Return what the monitor is told."""
        told = ("at", "paused", "workers", "running", "held", "lease_age", "queues")
        return {"why_not": self.why_not} | {name: getattr(self, name) for name in told}
