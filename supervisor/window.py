"""How many tasks may be claimed before there is a slot for them?

Short tasks would wait for the database between one and the next; long ones would wait
here, for a slot, while another runner had one free.
"""

import statistics
from collections import deque

_AHEAD = 0.25  # seconds of work for each slot
_ENOUGH, _KEPT = 8, 33  # tasks whose time is known


class Window:
    """How far ahead may be claimed, by how long the last tasks have taken."""

    def __init__(self, workers: int, most: int) -> None:
        """`most`: how many tasks may be claimed ahead for each of the workers."""
        self._workers, self._most = workers, most
        self.reset()

    def reset(self) -> None:
        """Forget what was learned: the tasks have changed."""
        self._took: deque[float] = deque(maxlen=_KEPT)
        self.size = 0  # tasks

    def took(self, seconds: float) -> None:
        """A task has ended that took so long."""
        self._took.append(max(seconds, 0.001))
        if len(self._took) >= _ENOUGH:
            each = int(_AHEAD / statistics.median(self._took))
            self.size = self._workers * min(self._most, each)
