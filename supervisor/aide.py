"""How does the supervisor keep a long-lived process of its own at work?"""

import logging
import math
import os
import select
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from . import clock, resources, spawning
from .channel import Channel, Message, pair
from .watch import Watch

logger = logging.getLogger("background_task.supervisor")

_LONGEST_BACKOFF = 30.0  # seconds
_PROVEN = 30.0  # seconds of life after which its death is not its last's
_LOOK_EVERY = 0.02  # seconds, whether one that was asked to exit has


class Backoff:
    """When may something that failed be tried again? After 1, 2, 4 … 30 s."""

    def __init__(self, longest: float = _LONGEST_BACKOFF) -> None:
        """`longest` is the most seconds between two tries."""
        self._longest = longest
        self.succeeded()

    def succeeded(self) -> None:
        self.until = 0.0
        self._next = 1.0

    def failed(self) -> float:
        """Note it; return how many seconds are to be waited."""
        wait = min(self._next, self._longest)
        self.until = clock.now() + wait
        self._next = wait * 2
        return wait


class Aide:
    """A process that serves the supervisor's loop: bookkeeper, launcher or monitor.

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

    def begin(self, start: Callable[[], None], watch: Watch) -> bool:
        """Have it started, by `start`, and heard.

        False: it can't be had now, and may be tried again when the backoff says so.
        """
        try:
            start()
            watch.add(self.channel)
        except OSError as error:
            self.kill()
            self.backoff.failed()
            why = resources.explained(error)
            logger.error("The %s could not be started: %s", self.name, why)
        return self.up

    def drop(self, why: str, watch: Watch, *, pause: bool = True) -> None:
        """Have done with one that died, hangs or is to be replaced.

        Without a pause where finding out has taken its time already.
        """
        if not self.up:
            return  # it was dropped for what it said last
        watch.forget(self.channel)
        self.kill()
        wait = self.backoff.failed() if pause else 0.0
        when = f" in {wait:g} s" if wait else ""
        logger.error("The %s %s; it is replaced%s", self.name, why, when)

    def note_sign_of_life(self) -> None:
        """It has said what it says while it is well: if for long, begin anew."""
        if clock.now() >= self.started_at + _PROVEN:
            self.backoff.succeeded()

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
