"""How does the supervisor keep a long-lived process of its own at work?"""

import math
import os
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

    def failed(self) -> float:
        """Note it; return how many seconds are to be waited."""
        wait = self._next
        self.until = clock.now() + wait
        self._next = min(wait * 2, _LONGEST_BACKOFF)
        return wait


class Aide:
    """A process that serves the supervisor's loop: the bookkeeper, or the launcher.

    Its handle is the same for all its lives: when it dies, hangs or is frozen it is
    killed and started again.
    """

    name = "aide"

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._dying: set[int | None] = set()  # killed, and not yet reaped
        self.backoff = Backoff()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        """Start `target(its end of the channel, *args)` in a fresh interpreter.

        Raises OSError when no process, memory or descriptors are to be had.
        """
        ours, theirs = pair()
        channel = Channel(ours)
        with theirs:
            try:
                process = spawning.start(target, theirs, *args)
            except OSError:
                channel.close()
                raise
        self.channel, self._process = channel, process
        self.started_at = self.heard_at = clock.now()

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
        """Kill it in the middle of whatever it does; it may take long to be dead."""
        if self._process is not None:
            self._process.kill()
            self._dying.add(self._process.pid)
            self._process = None  # with its descriptors; `close` needs a dead one
            self.channel.close()
            self.bury()

    def bury(self) -> set[int | None]:
        """Reap what was killed; return the pids that hang in the kernel still."""
        self._dying = {pid for pid in self._dying if pid and not _is_reaped(pid)}
        return self._dying

    def close(self, wait: float) -> bool:
        """Hang up, which asks it to exit; kill it if it has not within `wait` s.

        Returns whether it has left by itself, or was not up.
        """
        if self._process is None:
            return True
        self.channel.hang_up()
        give_up_at = clock.now() + wait
        while self._process.exitcode is None and clock.now() < give_up_at:
            select.select([], [], [], _LOOK_EVERY)
        exitcode = self._process.exitcode
        self.kill()
        return exitcode == 0


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:  # somebody else has reaped it
        return True
