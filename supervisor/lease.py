"""Until when may we trust that nobody else takes our tasks for lost?

Of a lease of L seconds, counted from when its last renewal was sent:

    L/3      it is renewed again, by a bookkeeper that is well
    0.45 L   one that has neither renewed it nor said `unavailable` since is replaced
    0.65 L   what runs is asked to stop, or later: `Lease.stop_at`
    0.9 L    what runs is killed, or later: `Lease.kill_at`
    L        one that has said `unavailable`, and nothing since, is replaced

So that none is replaced that is well, none in an outage either, and no task is stopped
for one that is frozen:

    L/3 + what a turn takes                               < 0.45 L
    L/12 * 1.2, the longest pause + L/3, the longest call < 0.45 L
    0.45 L + the start of a bookkeeper                    < stop_at

The last leaves 0.2 L for the start: 0.6 s of a lease of 3 s. With the defaults, a lease
of 30 s and a grace of 5 s, it leaves 10.5 s.

In an outage one may need several times L/3 to find that it can't connect, at each
address of the server in turn; a new one would need no less.
"""

import math

from . import clock

SILENCE = 0.45  # of the lease: for so long may a bookkeeper be silent
SILENCE_IN_OUTAGE = 1.0
_MARGIN = 1.0  # seconds before the end at which nothing of ours lives any more


class Lease:
    """The time for which the queue holds us for alive, as the supervisor counts it.

    It is counted from when the renewal that succeeded was sent, so it ends here before
    it ends in the database.
    """

    def __init__(self, length: float, grace: float) -> None:
        """`length` and `grace` are seconds; a long grace is cut to fit the lease."""
        self.length = length
        self._grace = min(grace, length / 4)
        self._margin = min(_MARGIN, length / 10)
        self._ends: float | None = None

    @property
    def ever_renewed(self) -> bool:
        return self._ends is not None

    @property
    def age(self) -> float | None:
        """Return how many seconds ago it was renewed last; None: it never was."""
        return None if self._ends is None else clock.now() - self._ends + self.length

    def renewed(self, sent_at: float) -> None:
        """A renewal that was sent at this moment has succeeded."""
        self._ends = sent_at + self.length

    def patience(self, *, in_outage: bool) -> float:
        """For how many seconds may a bookkeeper be silent?"""
        return self.length * (SILENCE_IN_OUTAGE if in_outage else SILENCE)

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
