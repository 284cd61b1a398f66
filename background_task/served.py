"""Which queues does a runner serve?"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Served:
    """The queues that may be claimed from; None stands for tasks without a queue."""

    queues: frozenset[str] = frozenset()  # these only; if empty, every queue and none
    excluded: frozenset[str | None] = frozenset()  # of those, never these
    nothing: bool = False  # for now

    def __contains__(self, queue: str | None) -> bool:
        if self.nothing:
            return False
        named = not self.queues or queue in self.queues
        return named and queue not in self.excluded

    @property
    def everything(self) -> bool:
        """Does no queue have to be asked for?"""
        return not self.queues and not self.excluded and not self.nothing

    @property
    def names(self) -> set[str]:
        """The queues that are named, be it to serve them or not to."""
        return {queue for queue in self.queues | self.excluded if queue is not None}

    def but(self, excluded: Collection[str | None]) -> Self:
        """Return the same without these."""
        return replace(self, excluded=self.excluded.union(excluded))


EVERYTHING = Served()
