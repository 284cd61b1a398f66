"""What must a queue be able to do, so that the bookkeeper can keep its books?"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from .evidence import Ended
from .job import Job


class QueueUnavailable(Exception):
    """The queue cannot be reached, or not now: try again later."""


class QueueBusy(QueueUnavailable):
    """A row is in use by another: leave that one for later, and do the others."""


class QueueUnusable(Exception):
    """The queue will not work however often one tries; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A running `process_tasks`: who it is and how others on its host can tell."""

    id: str
    host: str  # for people
    place: str  # the processes that can see one another
    pid: int
    started: int  # with the pid it names the process


class Queue(Protocol):
    """Where tasks wait and where their ends are written. Knows no processes.

    Everything between `transaction()`'s begin and end happens together or not at all.
    Any method may raise QueueUnavailable, and `open` QueueUnusable.
    """

    def open(self, *, register: bool) -> None:
        """Connect, and make the runner known if it is not yet."""

    def know(self, tasks: Mapping[str, Any]) -> None:
        """Learn which tasks this runner can run, with what their decorators say."""

    def admit(self, avoided: Collection[str], only: str | None) -> None:
        """Claim no job of the names to be avoided, or of this one name only."""

    def transaction(self) -> AbstractContextManager[None]: ...

    def renew(self) -> bool:
        """Prolong the lease; False when the runner's row is gone: fenced off."""

    def claim(self, n: int, held: Collection[str]) -> list[Job]:
        """Claim at most `n` due tasks, only under a lease that has not run out.

        None that one of the claims in `held` is a try of, whatever the queue says.
        """

    def record(self, endings: Mapping[str, Ended]) -> None:
        """Write how tries ended, by claim; one that is no longer held changes nothing.

        An ending that is refused undoes the others of its transaction.
        """

    def end_sessions(self, sessions: Collection[Mapping[str, Any]]) -> None:
        """End what stopped tries have left behind elsewhere; raises nothing."""

    def progress(self, claim: str, done: int, total: int | None, message: str) -> None:
        """Write how far a try is: done, in all if that is known, and in words.

        Without waiting for a row that is in use: QueueBusy.
        """

    def abandon(self, claim: str, text: str) -> None:
        """Have a task never run again: its try's end can't be recorded otherwise."""

    def strays(self, held: Collection[str]) -> set[str]:
        """Return the claims that the queue alone thinks this runner holds.

        They are on no task that one of the claims in `held` is a try of.
        """

    def may_be_due(self) -> bool:
        """Look, without locking anything, whether some task is due that can be run."""

    def fileno(self) -> int | None:
        """Return what becomes readable when `heard` may be true, if there is such."""

    def hear_every(self) -> float | None:
        """Return how many seconds apart to ask `heard`; None: not by the clock."""

    def heard(self) -> bool:
        """Return whether something may have been enqueued since the last call.

        Cheap, and never the only way: what it misses is found by `may_be_due`.
        """

    def next_due(self, within: float) -> float | None:
        """Return in how many seconds the next task is due; None: not in these."""

    def unknown_names(self) -> set[str]:
        """Return some names of due tasks that this runner does not know."""

    def unknown_queues(self) -> set[str]:
        """Return the queues that are to be served, and that nobody has used so far."""

    def dead_runners(self) -> list[Runner]:
        """Return the runners of this place whose process may have to be swept."""

    def rescue(self, runner: str | None = None) -> int:
        """Record as lost what a swept runner held (None: what no lease protects).

        Return how many tries that were.
        """

    def news(self) -> list[dict[str, Any]]:
        """Return what was recorded since the last call, for `Project.announce`.

        Plain data; each item names its `task` by id. Only what is committed.
        """

    def close(self) -> None:
        """Make the runner unknown if it holds nothing any more; disconnect."""
