"""Who goes when the container is nearly out of memory, before the kernel kills all?

With `memory.oom.group`, as Kubernetes sets it, the kernel kills the whole container
when it is full, its supervisor included.
"""

import logging
from collections.abc import Iterable

from .child import Child
from .container import Container

logger = logging.getLogger("background_task.supervisor")

_FULL = 0.95  # of what the container may hold
_EVERY = 0.1  # seconds between two looks
_LIMIT_EVERY = 10.0  # seconds between two looks at the limit
_PAUSE = 1.0  # seconds after a task was stopped, for its memory to be free


class Guard:
    """Stops the largest task when the container's memory is nearly full."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._limit: int | None = None
        self._limit_at = self._look_at = 0.0

    @property
    def look_at(self) -> float | None:
        """When is it to be looked at next? None: there is no limit."""
        return None if self._limit is None else self._look_at

    def step(self, now: float, running: Iterable[Child], template: int | None) -> None:
        """Stop the task that holds the most, if it is time."""
        if now >= self._limit_at:
            self._limit_at = now + _LIMIT_EVERY
            self._limit = self._container.memory_limit()
        if self._limit is None or now < self._look_at:
            return
        self._look_at = now + _EVERY
        used = self._container.memory_used() or 0
        if used < self._limit * _FULL:
            return
        sizes = [
            (child.weigh(template), child)
            for child in running
            if child.begun is not None and child.stopping is None
        ]
        if not sizes:
            return
        size, largest = max(sizes, key=lambda weighed: weighed[0])
        logger.error("The container is nearly out of memory: stopping %s", largest)
        largest.give_way(size, used, self._limit, now)
        self._look_at = now + _PAUSE
