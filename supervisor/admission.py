"""Which jobs may start, so that their memory limits fit into what there is?"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from . import clock
from .child import Child
from .container import Container, host_memory
from .job import Job
from .outcome import Failed, Outcome, Released, size_text

logger = logging.getLogger("background_task.supervisor")

_PART = 0.9  # of the container's memory that tasks may have: the rest is ours
_PATIENCE = 60.0  # seconds that a job waits for memory before smaller ones wait for it
# Whether there is still such a job is found out now and then: it may be claimed, and is
# given back once more. Seconds from one refusal to that, and for it to be claimed.
_PROBED_AFTER, _TO_BE_CLAIMED = 15.0, 5.0
_OPTION = "--memory-budget"


def budget_of(container: Container) -> int:
    """Return the bytes that "auto" stands for: of the container, else of the host."""
    return int((container.memory_limit() or host_memory()) * _PART)


@dataclass(slots=True)
class _Waiting:
    """What is known of a name whose job did not fit."""

    size: int  # bytes
    since: float
    refused_at: float


class Admission:
    """What the memory limits of the jobs that run may add up to.

    A job without a memory limit counts for nothing. One that does not fit is given
    back, and its name is not claimed until it would fit.
    """

    def __init__(self, budget: int | None) -> None:
        """`budget` is in bytes; None: every job may start."""
        self._budget = budget
        self._waiting: dict[str, _Waiting] = {}  # by name
        self._told: tuple[list[str], str | None] = [], None

    def refusal(self, job: Job, running: Iterable[Child]) -> Outcome | None:
        """Return how the try of a job ends that may not start now; None: it may."""
        size = job.limits.memory
        if self._budget is None or size is None or job.id is None:
            return None
        if size > self._budget:
            return Failed(
                f"Its limit of {size_text(size)} ({job.limits.memory_name}) can never "
                f"be had: tasks may hold {size_text(self._budget)} together "
                f"({_OPTION}). Lower the one or raise the other, or have runners with "
                "a larger budget alone serve its queue (--queue, --exclude-queue).",
                permanent=True,
            )
        if size <= self._left(running):
            self._waiting.pop(job.name, None)
            return None
        former, now = self._waiting.get(job.name), clock.now()
        since = now if former is None else former.since
        self._waiting[job.name] = _Waiting(size, since, refused_at=now)
        return Released(f"{size_text(size)} of memory were not free ({_OPTION})", True)

    def news(self, running: Iterable[Child]) -> tuple[list[str], str | None] | None:
        """Return which names not to claim, and the only one that may be, if changed.

        The first is a list of names that would not fit now; the other is one that has
        waited so long that what is smaller has to wait for it.
        """
        if self._budget is None:
            return None
        left, now = self._left(running), clock.now()
        for name, one in list(self._waiting.items()):
            if one.refused_at + _PROBED_AFTER + _TO_BE_CLAIMED < now:
                del self._waiting[name]  # another has taken it, or it is gone
        late = [n for n, one in self._waiting.items() if one.since + _PATIENCE < now]
        first = min(late, key=lambda name: self._waiting[name].since, default=None)
        avoided = sorted(
            name
            for name, one in self._waiting.items()
            if one.size > left and now < one.refused_at + _PROBED_AFTER
        )
        told = avoided, first
        if told == self._told:
            return None
        self._told = told
        return told

    def tell_again(self) -> None:
        """Whoever was told is gone."""
        self._told = [], None

    def _left(self, running: Iterable[Child]) -> int:
        held = sum(child.job.limits.memory or 0 for child in running)
        return (self._budget or 0) - held


def warn_of_too_much(workers: int, limit: int | None, container: Container) -> None:
    """Warn if all workers together may hold more than their container may."""
    most = container.memory_limit()
    if limit is None or most is None or workers * limit <= most:
        return
    logger.warning(
        "%s workers with a memory limit of %s each may hold %s, and the container no "
        "more than %s: it may be out of memory before a task reaches its limit. Have "
        "fewer workers, a lower limit, or %s auto.",
        workers,
        size_text(limit),
        size_text(workers * limit),
        size_text(most),
        _OPTION,
    )
