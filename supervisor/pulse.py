"""Who is told that the supervisor's loop goes on, and what has become of tries?

A file, for probes that must cost nothing, and the monitor, for those who ask by HTTP;
each only if it is wanted. The loop itself tells them, so that it is the loop's life
that is seen, and not a thread's.
"""

import math
import time
from collections.abc import Iterable

from . import clock
from .channel import Message
from .condition import Condition
from .heartbeat import Heartbeat
from .monitor import Monitor
from .outcome import Released
from .queue import Runner
from .tries import Try
from .watch import Watch

_EVERY = 1.0  # seconds between two ticks


class Pulse:
    """Ticks once a second. Called from the supervisor's loop only.

    Nothing here waits for anybody, but for a local file to be written.
    """

    def __init__(
        self, heartbeat: Heartbeat | None = None, monitor: Monitor | None = None
    ) -> None:
        self._heartbeat = heartbeat
        self._monitor = monitor
        self._tick_at = 0.0 if heartbeat or monitor else math.inf

    def begin(self, watch: Watch) -> None:
        """Raises OptionError for a file that can't be written."""
        self._watch = watch
        if self._heartbeat:
            self._heartbeat.begin()

    def end(self) -> None:
        """Nothing ticks any more; may be called without `begin`."""
        if self._monitor:
            if self._monitor.up:
                self._watch.forget(self._monitor.channel)
            self._monitor.close(_EVERY)
        if self._heartbeat:
            self._heartbeat.end()

    @property
    def tick_at(self) -> float:
        """When is the next tick due?"""
        return self._tick_at

    def pids(self) -> set[int | None]:
        """Return the processes that are ours, and no task's."""
        monitor = self._monitor
        return {monitor.pid} | monitor.bury() if monitor else set()

    def step(self, runner: Runner, now: Condition) -> None:
        """Tick, if it is time."""
        if self._monitor:
            self._look_after(self._monitor)
        if clock.now() < self._tick_at:
            return
        self._tick_at = clock.now() + _EVERY
        if self._heartbeat:
            self._heartbeat.beat(runner, now.why_not, now.paused)
        if self._monitor:
            self._monitor.tick(now)

    def heed(self, message: Message) -> None:
        """Take in what the bookkeeper says of the queue."""
        if not self._monitor:
            return
        match message:
            case {"kind": "turn", "times": dict(times)}:
                self._monitor.note("turn", at=time.time(), **times)
            case {"kind": "rescued", "tries": int(tries)}:
                self._monitor.note("rescued", tries=tries)
            case {"kind": "unavailable"}:
                self._monitor.note("unavailable")

    def recorded(self, tries: Iterable[Try]) -> None:
        """Take in how tries ended that are in the books."""
        if not self._monitor:
            return
        for one in tries:
            outcome = one.outcome
            given_back = isinstance(outcome, Released) and outcome.ahead
            if outcome is not None and not given_back:
                self._note_end(self._monitor, one, type(outcome).__name__)

    def _note_end(self, monitor: Monitor, one: Try, outcome: str) -> None:
        known = one.child.evidence if one.child else None
        started = known.started if known else None
        due, ended = one.job.due, known.ended if known else None
        monitor.note(
            "ended",
            task=one.job.name,
            queue=one.job.queue or "",
            outcome=outcome,
            seconds=None if started is None or ended is None else ended - started,
            waited=None if started is None or due is None else started - due,
            peak=known.peak if known else None,
        )

    def _look_after(self, monitor: Monitor) -> None:
        """Start it, hear it, or have it replaced; the runner does without meanwhile."""
        if not monitor.up:
            may_start = clock.now() >= monitor.backoff.until
            if may_start and monitor.begin(monitor.start, self._watch):
                self._tick_at = 0.0  # it answers nobody before the first
            return
        monitor.receive()
        if monitor.channel.ended:
            monitor.drop("died", self._watch)
        elif clock.now() >= monitor.answer_due:
            monitor.drop("does not answer", self._watch)
