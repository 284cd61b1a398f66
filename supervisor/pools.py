"""Whose are the slots? Some queues have a pool of their own, the others share one."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping

from .child import Child
from .job import Job
from .tries import Try
from .window import Window


def pool_of(job: Job, pools: Container[str | None]) -> str | None:
    """Return the name of a job's pool: its queue's own, or None, the shared one."""
    return job.queue if job.queue in pools else None


class Pool:
    """So many slots, and what may be claimed for them."""

    def __init__(self, size: int, ahead: int) -> None:
        """`ahead`: how many jobs may be claimed ahead for each slot."""
        self.size = size
        self.window = Window(size, ahead)
        self.credits = 0  # jobs that the bookkeeper may still claim for it


class Pools:
    """All slots of a runner.

    For a queue with a pool of its own nothing is claimed ahead: no more of its tasks
    are held than it has slots, and the others are left to other runners.
    """

    def __init__(self, workers: int, own: Mapping[str, int], ahead: int) -> None:
        """`own`: the sizes of pools by queue; the others share what is left."""
        self._by_name: dict[str | None, Pool] = {
            name: Pool(size, 0) for name, size in own.items()
        }
        if (shared := workers - sum(own.values())) > 0:
            self._by_name[None] = Pool(shared, ahead)

    @property
    def names(self) -> list[str | None]:
        return list(self._by_name)

    def of(self, job: Job) -> Pool:
        """Return the pool that a job has its slot in."""
        return self._by_name[pool_of(job, self._by_name)]

    def lacking(self, held: Iterable[Job]) -> Iterator[tuple[str | None, int]]:
        """Yield the pools that more jobs may be claimed for, and give that credit.

        `held` are those that take up a slot, or wait for one.
        """
        count = Counter(pool_of(job, self._by_name) for job in held)
        for name, pool in self._by_name.items():
            room = pool.size + pool.window.size
            if (more := room - count[name] - pool.credits) > 0:
                pool.credits += more
                yield name, more

    def startable(self, waiting: Iterable[Try], running: Iterable[Child]) -> list[Try]:
        """Return those for which their pool has a slot, in their order."""
        free = {name: pool.size for name, pool in self._by_name.items()}
        for child in running:
            free[pool_of(child.job, free)] -= 1
        found = []
        for attempt in waiting:
            name = pool_of(attempt.job, free)
            if free[name] > 0:
                free[name] -= 1
                found.append(attempt)
        return found

    def took_back_credit(self) -> None:
        """The bookkeeper that had it is gone."""
        for pool in self._by_name.values():
            pool.credits = 0

    def reset_windows(self, held: Iterable[Job]) -> Iterator[tuple[str | None, int]]:
        """The tasks have changed: learn anew how short they are.

        Yields the pools for which more may still be claimed than there are slots for,
        beside what is held, and takes that credit back.
        """
        count = Counter(pool_of(job, self._by_name) for job in held)
        for name, pool in self._by_name.items():
            pool.window.reset()
            free = max(0, pool.size - count[name])
            if (excess := pool.credits - free) > 0:
                pool.credits -= excess
                yield name, excess

    def shut_windows(self) -> None:
        """Claim nothing ahead."""
        for pool in self._by_name.values():
            pool.window = Window(pool.size, 0)
