"""Until when may we trust that nobody else takes our tasks for lost?"""

import math

from . import clock

_MARGIN = 1.0  # seconds before the end at which nothing of ours lives any more


class Lease:
    """The time for which the queue holds us for alive, as the supervisor counts it.

    It is counted from when the renewal that succeeded was sent, so it ends here before
    it ends in the database.
    """

    def __init__(self, length: float, grace: float) -> None:
        """`length` and `grace` are seconds; a long grace is cut to fit the lease."""
        self.length = length
        self._grace = min(grace, length / 3)
        self._margin = min(_MARGIN, length / 10)
        self._ends: float | None = None

    @property
    def ever_renewed(self) -> bool:
        return self._ends is not None

    def renewed(self, sent_at: float) -> None:
        """A renewal that was sent at this moment has succeeded."""
        self._ends = sent_at + self.length

    @property
    def kill_at(self) -> float:
        """When must everything be dead?"""
        return math.inf if self._ends is None else self._ends - self._margin

    @property
    def stop_at(self) -> float:
        """When is everything asked to stop, so that it can unwind before that?"""
        return self.kill_at - self._grace

    @property
    def trusted(self) -> bool:
        """May something be started under it?"""
        return self._ends is not None and clock.now() < self.stop_at
