"""When is the runner to stop, why, and with which exit status?"""

import logging
import math
from collections.abc import Callable, Iterator

from . import clock
from .options import Options
from .tries import Tries

logger = logging.getLogger("background_task.supervisor")

EX_FAILED, EX_UNWRITTEN = 1, 75
LAST_RECORD = 5.0  # seconds for what is still to be written at the end

_NEVER = math.inf


class Stopping:
    """Owns the moment at which what runs is to stop, and why that was.

    The moment only ever comes nearer. Called from the supervisor's loop.
    """

    def __init__(
        self, options: Options, tries: Tries, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called when the moment has come nearer."""
        self._options = options
        self._tries = tries
        self._on_change = on_change
        # None: go on. Otherwise claim no more, and stop what runs at this moment.
        self.at: float | None = None
        self.failure = ""  # why the exit status is not 0
        self._duration_ends = _NEVER
        self._leave_by: float | None = None

    def begin(self) -> None:
        """From now on `--duration` is counted."""
        if self._options.duration > 0:
            self._duration_ends = clock.now() + self._options.duration

    @property
    def begun(self) -> bool:
        """Is no more to be claimed?"""
        return self.at is not None

    @property
    def draining(self) -> bool:
        """Is what runs to stop as well, at some moment?"""
        return self.at is not None and self.at < _NEVER

    def moments(self) -> Iterator[float]:
        """Yield when there will be something to do."""
        if self.at is None:
            yield self._duration_ends
        elif self._tries.running():
            yield self.at
        if self._leave_by is not None:
            yield self._leave_by

    def claim_no_more(self, why: str) -> None:
        """Claim no more, and let what runs finish, bounded by its own limits."""
        self._move_to(_NEVER, why)

    def drain(self, asked: str) -> None:
        """Stop after the drain time; kill at once when that was asked for already."""
        now = clock.now()
        if self.draining:
            self._move_to(now, f"{asked} again: stopping at once")
            self._tries.stop("the runner was stopped", kill_at=now)
            return
        timeout = self._options.drain_timeout
        what_runs = f"what runs has {timeout:g} s to finish"
        what_runs += "; a SIGTERM from now on stops it at once"
        self._move_to(now + timeout, f"{asked}: {what_runs}")

    def fail(self, text: str) -> None:
        """Stop for good, with status 1, if there is a text that says why.

        Nothing that we could wait for would help.
        """
        if text and not self.failure:
            self.failure = text
            logger.error("Cannot go on: %s", _in_a_line(text))
            timeout = self._options.drain_timeout
            what_runs = f"Stopping: what runs has {timeout:g} s to finish"
            self._move_to(clock.now() + timeout, what_runs)

    def _move_to(self, moment: float, why: str) -> None:
        if self.at is not None and moment >= self.at:
            return
        running = len(self._tries.running())
        # Who waits for it sees it whatever is logged: it may take a while.
        level = logging.WARNING if running else logging.INFO
        logger.log(level, "%s (%s running)", why, running)
        self.at = moment
        self._on_change()

    def heed_duration(self) -> None:
        """Claim no more when that time is over."""
        if self.at is None and clock.now() >= self._duration_ends:
            self.claim_no_more(f"--duration {self._options.duration:g} s is over")

    def enforce(self, now: float) -> None:
        """Stop what runs, when it is time."""
        if self.at is not None and now >= self.at:
            self._tries.stop("the runner was stopped")

    def is_over(self, *, busy: bool, children: bool) -> bool:
        """Is nothing left to do, or nothing that we could still do?

        `busy`: somebody is still to be waited for, whose task is recorded. `children`:
        there are processes.
        """
        if self.at is None or not self._tries.left_to_themselves():
            return False
        if not self._tries and not busy:
            return True
        if children and self.at == _NEVER:
            self._leave_by = None
            return False  # receivers of signals have limits of their own
        if self._leave_by is None:
            self._leave_by = clock.now() + LAST_RECORD
        return clock.now() >= self._leave_by

    def exit_status(self) -> int:
        """Return 0; 1: it can't work at all; 75: something could not be written."""
        if self._tries:
            self.failure = (
                f"Could not write the end of {len(self._tries)} tries within "
                f"{LAST_RECORD:g} s; they are left to rescue: {self._tries}"
            )
            logger.error("%s", self.failure)
            return EX_UNWRITTEN
        if self.failure:
            logger.info("Ended by a failure; every end of a task is recorded")
            return EX_FAILED
        logger.info("Stopped; every end is recorded")
        return 0


def _in_a_line(text: str) -> str:
    """Leave out of a reason what stands between its first line and its last.

    The traceback is not logged: it is in the whole text, which the command ends with.
    """
    first, *more = text.splitlines()
    return f"{first} {more[-1]}" if more else first
