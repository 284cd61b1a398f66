"""Which runners are dead, and what becomes of what they held?

Looked after in the bookkeeper's process, at its desk, about once a second. The dead of
this place are swept first: by the supervisor, which can see their processes.
"""

import logging
from collections.abc import Callable

from . import clock
from .channel import Channel
from .queue import Queue, QueueBusy, is_away

logger = logging.getLogger("background_task.supervisor")

_EVERY = 1.0  # seconds between two looks at the other runners
_AT_LEAST_EVERY = 60.0  # however often they fail
_BUSY_FOR = 5.0  # seconds at most until a row that another had locked is tried again


class Rounds:
    """Has what dead runners held released."""

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        lease: float,
        rescued: Callable[[], None],
    ) -> None:
        """`rescued` is called each time that something was; `lease` is seconds."""
        self._channel = channel
        self._queue = queue
        self._lease = lease
        self._has_rescued = rescued
        self.any_dead = True  # in this place, and not yet rescued
        self._swept: list[str] = []
        self._sweeping: set[str] = set()  # the dead that are being swept
        self._after = _EVERY  # seconds; longer and longer while they fail
        self._at = 0.0

    @property
    def fail(self) -> bool:
        """Has the last one gone wrong?"""
        return self._after != _EVERY

    def next_moment(self) -> float:
        return 0.0 if self._swept else self._at

    def is_swept(self, runner: str) -> None:
        """Nothing of this runner is left: what it held can be released."""
        self._swept.append(runner)

    def soon(self) -> None:
        self._at = 0.0

    def go(self) -> None:
        """Release what dead runners held; have the dead of this place swept first.

        What goes wrong with it, but for an outage, must not stop our own work: it is
        told of, and the next look comes later and later; not by much for a row that is
        in use, as a session that a host has left behind may keep it for a while.
        """
        self._at = clock.now() + min(self._after, self._lease / 3)
        self.any_dead = True
        try:
            self._go()
        except Exception as error:
            if is_away(error):
                raise
            self._gone_wrong(error)
        else:
            self._after = _EVERY

    def _go(self) -> None:
        while self._swept:
            if self._rescued(self._queue.rescue(self._swept[0]), self._swept[0]):
                break  # there may be more of them
            self._swept.pop(0)
        if self._rescued(self._queue.rescue(), "expired"):
            self._at = 0.0
        dead = {runner.id: runner for runner in self._queue.dead_runners()}
        for runner in dead.keys() - self._sweeping:
            pid, started = dead[runner].pid, dead[runner].started
            self._channel.send("sweep", runner=runner, pid=pid, started=started)
        self._sweeping = set(dead)
        self.any_dead = bool(dead)

    def _gone_wrong(self, error: Exception) -> None:
        text, longest = "What dead runners held could not be rescued now", _BUSY_FOR
        if isinstance(error, QueueBusy):
            logger.warning("%s: another session has locked a row: %s", text, error)
        else:
            logger.exception(text)
            longest = _AT_LEAST_EVERY
        self._swept.clear()
        self._sweeping.clear()  # they are found dead again
        self._at = clock.now() + min(self._after, longest)
        self._after = min(self._after * 2, longest)

    def _rescued(self, tries: int, whose: str) -> int:
        if tries:
            self._channel.send("rescued", tries=tries)
            logger.warning("Tries rescued from a dead runner (%s): %s", whose, tries)
            self._has_rescued()
        return tries
