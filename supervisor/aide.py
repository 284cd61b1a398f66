"""How does the supervisor keep a long-lived process of its own at work?"""

import math
import select
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from . import clock, spawning
from .channel import Channel, Message, pair

_LONGEST_BACKOFF = 30.0
_LOOK_EVERY = 0.02  # seconds, whether one that was asked to exit has


class Backoff:
    """When may something that failed be tried again? After 1, 2, 4 … 30 s."""

    def __init__(self) -> None:
        self.succeeded()

    def succeeded(self) -> None:
        self.until = 0.0
        self._next = 1.0

    def failed(self) -> None:
        self.until = clock.now() + self._next
        self._next = min(self._next * 2, _LONGEST_BACKOFF)


class Aide:
    """A process that serves the supervisor's loop: the bookkeeper, or the launcher.

    Its handle is the same for all its lives: when it dies, hangs or is frozen it is
    killed and started again.
    """

    name = "aide"

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._dying: list[SpawnProcess] = []
        self.backoff = Backoff()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        """Start `target(its end of the channel, *args)` in a fresh interpreter."""
        ours, theirs = pair()
        self.channel = Channel(ours)
        self.started_at = self.heard_at = clock.now()
        self._process = spawning.start(target, theirs, *args)
        theirs.close()

    @property
    def up(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def silent_since(self) -> float | None:
        """Since when could we have heard of it? None: nothing is to be heard."""
        return self.heard_at

    def due(self, patience: float, start_timeout: float) -> float:
        """When may it be started again; or, if it is up, is it taken for frozen?

        `patience` is how many seconds it may be silent; `start_timeout`, if that is
        longer, holds until its first word.
        """
        if not self.up:
            return self.backoff.until
        if self.silent_since is None:
            return math.inf
        if self.heard_at == self.started_at:
            patience = max(patience, start_timeout)
        return self.silent_since + patience

    def receive(self) -> list[Message]:
        messages = self.channel.receive()
        if messages:
            self.heard_at = clock.now()
        return messages

    def kill(self) -> None:
        """Kill it in the middle of whatever it does; that may take a while."""
        if self._process is not None:
            self._process.kill()
            self._dying.append(self._process)
            self._process = None
            self.channel.close()
            self.bury()

    @property
    def dying(self) -> set[int | None]:
        """The pids of those that were killed and are not reaped yet."""
        return {process.pid for process in self._dying}

    def bury(self) -> None:
        """Reap what was killed and has died; one that hangs in the kernel has not."""
        for process in self._dying[:]:
            if process.exitcode is not None:
                process.close()
                self._dying.remove(process)

    def close(self, wait: float) -> None:
        """Hang up, which asks it to exit; kill it if it has not within `wait` s."""
        if self._process is None:
            return
        self.channel.hang_up()
        give_up_at = clock.now() + wait
        while self._process.exitcode is None and clock.now() < give_up_at:
            select.select([], [], [], _LOOK_EVERY)
        self.kill()
