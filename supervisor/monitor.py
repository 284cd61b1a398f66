"""Who answers probes and hands metrics out, where `--probe-port` is asked for?

The monitor: a process of its own, so that neither a slow client nor a database that
hangs is anything to the supervisor. What it knows of the runner it has been told; what
it knows of the queue it asks itself. It may die at any time: it is started again.
"""

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from setproctitle import setproctitle

from . import clock, spawning
from .aide import Aide
from .channel import Channel, Message
from .condition import Condition
from .entry import flush, named
from .httpd import Answer, Server, text
from .processes import TITLE

logger = logging.getLogger("background_task.supervisor")

MAX_AGE = 30.0  # seconds that the last tick may be old, for the runner to be alive
_PATIENCE = 10.0  # seconds for the monitor to answer a tick
_START_TIMEOUT = 60.0  # seconds for its first word
_MOST_NOTES = 10_000  # not yet told, beyond which they are dropped and counted


class Metrics(Protocol):
    """What makes metrics of what it is told. Runs in the monitor's process."""

    def take(self, tick: Message) -> None:
        """Take in a tick: the fields of a `Condition`, `notes`, and how many `lost`."""

    def answer(self) -> Answer:
        """Return what is there to be known; called by several threads at a time."""


class Monitor(Aide):
    """The supervisor's handle on its monitor.

    What it is told is kept until the next tick. What it has no room for is dropped.
    """

    name = "monitor"

    def __init__(
        self, listening: socket.socket, metrics: str, environment: dict[str, Any]
    ) -> None:
        """`metrics` is the dotted name of what, given `environment`, makes `Metrics`.

        It listens on this socket, in all of its lives.
        """
        super().__init__()
        self._listening = listening
        self._metrics = metrics
        self._environment = environment
        self._notes: deque[Message] = deque()
        self._lost = 0
        self._asked_at: float | None = None

    def start(self) -> None:
        """Start the process; it answers nobody before the first tick."""
        self._asked_at = None
        self._start(watch_over, self._listening, self._metrics, self._environment)

    def note(self, kind: str, **fields: Any) -> None:
        """Have it know, with the next tick."""
        if len(self._notes) < _MOST_NOTES:
            self._notes.append({"kind": kind, **fields})
        else:
            self._lost += 1

    def tick(self, condition: Condition) -> None:
        """Tell it how the runner is, unless it has not read what it was told last."""
        if not self.up or self.channel.waiting_to_send:
            return
        if self._asked_at is None:
            self._asked_at = clock.now()
        notes, lost = list(self._notes), self._lost
        self._notes.clear()
        self._lost = 0
        said = condition.to_message()
        self.channel.send("tick", **said, notes=notes, lost=lost)

    def receive(self) -> list[Message]:
        messages = super().receive()
        if messages:
            self._asked_at = None
            self.note_sign_of_life()
        return messages

    @property
    def silent_since(self) -> float | None:
        """Since when has it owed us an answer?"""
        return self._asked_at

    @property
    def answer_due(self) -> float:
        """When is it taken for frozen?"""
        return self.due(_PATIENCE, _START_TIMEOUT)


def watch_over(
    end: socket.socket,
    listening: socket.socket,
    metrics: str,
    environment: dict[str, Any],
) -> None:
    """Be the monitor. Runs in its process."""
    spawning.begin()
    spawning.turn_deaf()
    setproctitle(f"{TITLE} monitor")
    board = _Board()
    _in_thread(_hear, Channel(end), board)
    board.told.wait()
    _in_thread(Server(listening, board.answer).serve)
    # Last, in the main thread, since it is the project's code that is imported: it may
    # take long, or fail, and probes are answered all the same.
    board.become(metrics, environment)
    threading.Event().wait()


def _in_thread(target: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def _hear(channel: Channel, board: "_Board") -> None:
    """Take in ticks until the supervisor is gone, then leave at once."""
    while not channel.ended:
        channel.wait()
        if ticks := channel.receive():
            board.take(ticks)
            channel.send("heard")
    flush()
    os._exit(0)


class _Board:
    """What was told last, and what is answered by it."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self._last: Message = {}
        self._lock = threading.Lock()
        self._untaken: deque[Message] = deque(maxlen=100)
        self._metrics: Metrics | None = None
        self._failed = False

    def become(self, metrics: str, environment: dict[str, Any]) -> None:
        """Have metrics, or say why there are none."""
        try:
            made = named(metrics)(environment)
        except BaseException:
            logger.exception("The monitor has no metrics: the project cannot be set up")
            self._failed = True
            return
        with self._lock:
            self._metrics = made
            self._hand_on(self._untaken)
            self._untaken.clear()

    def take(self, ticks: Iterable[Message]) -> None:
        with self._lock:
            for tick in ticks:
                self._last = tick
                self._untaken.append(tick)
            if self._metrics:
                self._hand_on(self._untaken)
                self._untaken.clear()
        self.told.set()

    def _hand_on(self, ticks: Iterable[Message]) -> None:
        assert self._metrics is not None
        for tick in ticks:
            try:
                self._metrics.take(tick)
            except Exception:
                logger.exception("Metrics could not be made of a tick")

    def answer(self, path: str) -> Answer:
        match path:
            case "/livez":
                return self._liveness()
            case "/readyz":
                return self._readiness()
            case "/metrics":
                return self._metrics_answer()
        return text(404, "There are /livez, /readyz and /metrics")

    def _liveness(self) -> Answer:
        age = clock.now() - self._last["at"]
        if age > MAX_AGE:
            return text(503, f"The supervisor's last tick was {age:.1f} s ago")
        return text(200, f"Alive: the supervisor ticked {age:.1f} s ago")

    def _readiness(self) -> Answer:
        status, *_ = liveness = self._liveness()
        if status == 200 and (why := self._last["why_not"]):
            return text(503, f"Not ready: {why}")
        if status != 200:
            return liveness
        paused = self._last["paused"]
        return text(200, f"Ready; paused: {paused}" if paused else "Ready")

    def _metrics_answer(self) -> Answer:
        if self._failed:  # whoever asks may be anybody
            return text(500, "The project cannot be set up; the log says why")
        if self._metrics is None:
            return text(503, "The project is being set up")
        return self._metrics.answer()
