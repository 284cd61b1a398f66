"""Who tells the project's signal receivers what has been recorded?

An announcer: a process of its own now and then, started for what has been recorded
since the last one. By then all is in the books, so a receiver can change no outcome.
"""

import logging
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from . import clock, resources
from .aide import Backoff
from .child import Child
from .job import Job, Limits
from .outcome import OutOfMemory, Succeeded
from .slots import Slots

logger = logging.getLogger("background_task.supervisor")

_MOST = 100  # tries that one process tells of
_BEHIND = 10_000  # tries not yet told of, with which no more are claimed


class Announcer:
    """What is recorded and not yet announced, and the process that announces it.

    Called from the supervisor's loop only; nothing here blocks. A try is announced at
    most once: one whose receivers take too long, or take their process along, is not
    announced again.
    """

    def __init__(self, slots: Slots, target: str, limits: Limits) -> None:
        """`target` gets a list of what to announce; the time limit is per item."""
        self._slots = slots
        self._target = target
        self._limits = limits
        self._news: deque[dict[str, Any]] = deque()  # each names its `task`
        self._backoff = Backoff()
        self._child: Child | None = None
        self._announced = 0  # of what the child was given
        self._given = 0
        self._most = _MOST

    @property
    def busy(self) -> bool:
        """Is there anything still to be announced?"""
        return bool(self._news) or self._child is not None

    @property
    def behind(self) -> bool:
        """Do so many wait that no more should be claimed?"""
        return len(self._news) >= _BEHIND

    def add(self, news: Iterable[dict[str, Any]]) -> None:
        self._news.extend(news)

    def step(self, *, may_start: bool) -> None:
        """Take in how far the process is; start one for what waits."""
        if self._child is not None:
            self._follow(self._child)
        elif may_start and self._news and clock.now() >= self._backoff.until:
            self._start()

    def next_start(self) -> float | None:
        """When is a process to be started? None: there is no need of one."""
        return self._backoff.until if self._news and self._child is None else None

    def unannounced(self) -> list[int]:
        """Return the tasks of which nobody was told."""
        return [one["task"] for one in self._news]

    def _start(self) -> None:
        batch = list(islice(self._news, self._most))
        self._given, self._announced = len(batch), 0
        job = Job(
            id=None,
            name="announcer",
            target=self._target,
            args=batch,
            claim="announcer",
            limits=self._limits,
        )
        try:
            self._child = self._slots.start(job)
        except OSError as error:
            self._has_to_wait(resources.explained(error))

    def _has_to_wait(self, why: object) -> None:
        """Try again later, with one alone: all of them may have been too many."""
        self._most = 1
        self._backoff.failed()
        logger.error("Announcing the end of %s tries has to wait: %s", self._given, why)

    def _follow(self, child: Child) -> None:
        while self._announced < min(
            child.progress.done if child.progress else 0, self._given
        ):
            self._news.popleft()
            self._announced += 1
            child.prolong()
        if child.over:
            self._child = None
            self._learn_from(child)

    def _learn_from(self, child: Child) -> None:
        outcome = child.outcome()
        never_began = child.progress is None
        is_too_large = isinstance(outcome, OutOfMemory) and self._given == 1
        if outcome == Succeeded():
            self._most = min(2 * self._most, _MOST)
            self._backoff.succeeded()
        elif never_began and not is_too_large:
            self._has_to_wait(outcome)
        elif self._announced < self._given:
            task = self._news.popleft()["task"]
            logger.error(
                "Announcing the end of task %s failed; some receivers may not have "
                "heard of it. %s",
                task,
                outcome,
            )
