"""When is it to be seen what a job holds, and how closely?

A cheap sum is looked at often. Only when that has grown is the tree weighed: the
verdict, by which a limit is judged, costs a long look. For people, who see what has run
for a second, it is weighed now and then too, if the sum has changed.
"""

import math

from . import memory

EVERY = 0.1  # seconds between two looks at what has a limit
_UNLIMITED_EVERY = 1.0  # and at what has none, for its peak alone

# When to weigh again: by what part of the limit the cheap sum has grown, or, over the
# limit, after how many seconds.
_GROWN, _WEIGH_EVERY = 0.1, 1.0
_GROWN_UNLIMITED = 16 * 1024**2  # bytes, of what has no limit
# What is seen: after how many seconds, how often, and by what part the sum has changed.
# Weighing takes some 6 ms: those that have begun together are not all seen together.
_SEEN_AFTER, _SEEN_EVERY, _SEEN_CHANGE = 1.0, 5.0, 0.05
_SPREAD, _PARTS = 2.0, 16


class Scales:
    """What one job's tree holds of its own, in bytes."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._looked_at = -math.inf
        self._weighed = 0, -math.inf  # the cheap sum and when, at the last verdict
        self.peak: int | None = None  # the highest verdict
        self.held: int | None = None  # the last one

    def look_at(self, begun: float) -> float:
        """When is it to be looked at next?"""
        every = _UNLIMITED_EVERY if self._limit is None else EVERY
        # The same moments for all, so that one pass of the loop sees to many.
        return (max(self._looked_at, begun) // every + 1) * every

    def look(
        self, pid: int, template: int | None, now: float, lasts: float
    ) -> int | None:
        """Look at it; return the verdict, if the tree had to be weighed.

        `template` is the pid of the process that it was forked from, if it was; it
        `lasts` for so many seconds.
        """
        self._looked_at = now
        sum_of_all = memory.of_tree(pid)
        if not (
            self._is_to_be_weighed(sum_of_all, now)
            or (lasts >= _seen_after(pid) and self._is_to_be_seen(sum_of_all, now))
        ):
            return None
        self._weighed = sum_of_all, now
        return self.weigh(pid, template)

    def weigh(self, pid: int, template: int | None) -> int:
        """Return the verdict."""
        used = memory.own_of_tree(pid, template)
        self.held, self.peak = used, max(used, self.peak or 0)
        return used

    def _is_to_be_seen(self, sum_of_all: int, now: float) -> bool:
        """Has nobody seen it yet, or something else a while ago?"""
        former, at = self._weighed
        changed = abs(sum_of_all - former) > former * _SEEN_CHANGE
        return self.held is None or (changed and now - at >= _SEEN_EVERY)

    def _is_to_be_weighed(self, sum_of_all: int, now: float) -> bool:
        """Has the cheap sum grown since the verdict, or is that long ago?

        Below the limit the verdict is for the peak alone, and can wait for growth.
        """
        step = _GROWN_UNLIMITED if self._limit is None else self._limit * _GROWN
        if sum_of_all - self._weighed[0] >= step:
            return True
        over = self._limit is not None and sum_of_all > self._limit
        return over and now - self._weighed[1] >= _WEIGH_EVERY


def _seen_after(pid: int) -> float:
    """Return after how many seconds what a process holds is weighed for people."""
    return _SEEN_AFTER + pid % _PARTS * _SPREAD / _PARTS
