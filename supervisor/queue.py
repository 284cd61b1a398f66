"""What must a queue be able to do, so that the bookkeeper can keep its books?"""

import os
import uuid
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from . import processes
from .evidence import Ended
from .job import Job

_LONGEST_TEXT = 200  # characters


class QueueUnavailable(Exception):
    """The queue cannot be reached, or not now: try again later."""


class QueueBusy(QueueUnavailable):
    """A row is in use by another: leave that one for later, and do the others."""


def is_away(error: Exception) -> bool:
    """Is the whole queue unavailable, and not just one row in use?"""
    return isinstance(error, QueueUnavailable) and not isinstance(error, QueueBusy)


class QueueUnusable(Exception):
    """The queue will not work however often one tries; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A running `process_tasks`: who it is and how others on its host can tell."""

    id: str
    host: str  # for people
    place: str  # the processes that can see and kill one another
    pid: int
    started: int  # with the pid it names the process

    @classmethod
    def of_this_process(cls) -> Self:
        """Return one of a new name."""
        pid = os.getpid()
        started = processes.started(pid)
        assert started is not None, "this process is alive"
        return cls(
            id=uuid.uuid4().hex,
            host=os.uname().nodename,
            place=processes.place(),
            pid=pid,
            started=started,
        )


@dataclass(slots=True)
class Orders:
    """What people have asked of a runner and of the tries that it holds, by claim."""

    # Queues; "" is those tasks that are in none, "*" everything. For people to see.
    paused: list[str] = field(default_factory=list)
    drain_by: str | None = None
    stop: dict[str, str] = field(default_factory=dict)  # by whom
    output: list[str] = field(default_factory=list)  # that somebody reads
    stack: list[str] = field(default_factory=list)  # that somebody wants to see
    pointless: bool = False  # is there something to be settled?


def paused_text(paused: Collection[str]) -> str:
    """Return how people read what is paused, cut short if that is long."""
    if "*" in paused:
        return "everything"
    text = ", ".join(name or "tasks in no queue" for name in paused)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


class Queue(Protocol):
    """Where tasks wait and where their ends are written. Knows no processes.

    Everything between `transaction()`'s begin and end happens together or not at all.
    Any method may raise QueueUnavailable, those that are called at the start
    QueueUnusable.
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

    def claim(
        self, wanted: Mapping[str | None, int], held: Collection[str]
    ) -> list[Job]:
        """Claim due tasks, only under a lease that has not run out.

        `wanted` says how many at most, by pool: a queue that has one of its own, or
        None for all others that are served. No task that one of the claims in `held` is
        a try of, whatever the queue says.
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

    def abandon(self, claim: str, text: str, *, succeeded: bool) -> None:
        """Have a task never run again: its try's end can't be recorded otherwise."""

    def strays(self, held: Collection[str]) -> set[str]:
        """Return the claims that the queue alone thinks this runner holds.

        They are on no task that one of the claims in `held` is a try of.
        """

    def may_be_due(self, pools: Collection[str | None]) -> bool:
        """Look, without locking anything, whether some task is due that can be run.

        In one of these pools.
        """

    def fileno(self) -> int | None:
        """Return what becomes readable when `heard` may be true, if there is such."""

    def hear_every(self) -> float | None:
        """Return how many seconds apart to ask `heard`; None: not by the clock."""

    def heard(self) -> bool:
        """Return whether something may have been enqueued since the last call.

        Cheap, and never the only way: what it misses is found by `may_be_due`.
        """

    def next_due(self, within: float, pools: Collection[str | None]) -> float | None:
        """Return in how many seconds to look, since a task of these will be due.

        None: none will be `within` so many seconds.
        """

    def unknown_names(self) -> set[str]:
        """Return some names of due tasks that this runner does not know."""

    def unknown_queues(self) -> set[str]:
        """Return the queues that were named, and that nobody has used so far."""

    def dead_runners(self) -> list[Runner]:
        """Return the runners of this place whose process may have to be swept."""

    def rescue(self, runner: str | None = None) -> int:
        """Record as lost what a swept runner held (None: what no lease protects).

        Return how many tries that were: some at a time, until there are none.
        """

    def called(self) -> bool:
        """Return whether there are new orders, without asking the queue itself."""

    def orders(self, held: Collection[str]) -> Orders:
        """Return what is asked of this runner, and claim nothing of paused queues.

        Nothing may be claimed before the first call.
        """

    def settle_orders(self, held: Collection[str]) -> int:
        """Have done with some of what was asked and has become pointless.

        What waits, and was to be stopped, is cancelled: return how many.
        """

    def report(self, running: list[dict[str, Any]], *, draining: bool) -> None:
        """Write what runs, for people to see."""

    def answer(self, verb: str, claim: str, what: dict[str, Any]) -> None:
        """Write what a try has answered to an order, for whoever gave it."""

    def prune(self, most: int) -> int:
        """Remove at most so many tasks that are over and need not be kept any more.

        In a transaction of its own; return how many they were.
        """

    def news(self) -> list[dict[str, Any]]:
        """Return what was recorded since the last call, for `Project.announce`.

        Plain data; each item names its `task` by id. Only what is committed.
        """

    def close(self) -> None:
        """Make the runner unknown if it holds nothing any more; disconnect."""
