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
_PATIENCE = 10.0  # seconds for a task that was stopped to be gone
_IN_VAIN = 1.0  # seconds between two looks while nobody is worth it
_WORTH_IT = 0.05  # of the container's limit: what holds less is not stopped


class Guard:
    """Stops the largest task when the container's memory is nearly full."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._limit: int | None = None
        self._limit_at = self._look_at = self._stopped_at = 0.0

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
        children = [child for child in running if child.begun is not None]
        going = any(child.stopping is not None for child in children)
        if going and now < self._stopped_at + _PATIENCE:
            return  # its memory is still to come
        sizes = [(c.weigh(template), c) for c in children if c.stopping is None]
        size, largest = max(sizes, key=lambda weighed: weighed[0], default=(0, None))
        if largest is None or size < self._limit * _WORTH_IT:
            self._look_at = now + _IN_VAIN
            return  # it would change nothing
        logger.error("The container is nearly out of memory: stopping %s", largest)
        largest.give_way(size, used, self._limit, now)
        self._stopped_at = now
