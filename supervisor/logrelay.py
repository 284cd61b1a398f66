"""How can a loop log without ever waiting for whoever reads the log?"""

import contextlib
import logging
import queue
import threading
from logging.handlers import QueueHandler
from types import TracebackType
from typing import Self

from .output import write_in_pieces

_ROOM = 10_000  # records
_LAST_WAIT = 2.0  # seconds for what is still to be written at the end


class LogRelay:
    """Hands the records of a logger to a thread that writes them.

    A full log pipe then stops that thread and not the limits; what finds no room is
    dropped and counted.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(_ROOM)
        self._handler = _Dropping(self._records)
        self._leaving = False
        self._thread = threading.Thread(
            target=self._write, name="log relay", daemon=True
        )

    def __enter__(self) -> Self:
        self._handlers = self._logger.handlers
        self._propagate = self._logger.propagate
        self._thread.start()
        self._logger.handlers = [self._handler]
        self._logger.propagate = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._logger.handlers = self._handlers
        self._logger.propagate = self._propagate
        with contextlib.suppress(queue.Full):  # nobody reads the log
            self._records.put(None, timeout=_LAST_WAIT)
        self._thread.join(_LAST_WAIT)
        self._leaving = True
        self._thread.join(_LAST_WAIT)

    def _write(self) -> None:
        """Write the records where they would have gone. Runs in the thread."""
        while not self._leaving and (record := self._records.get()) is not None:
            for handler in self._destinations():
                if record.levelno < handler.level:
                    continue
                try:
                    self._hand_over(record, handler)
                except Exception:  # of a formatter or filter of the project's
                    handler.handleError(record)

    def _hand_over(self, record: logging.LogRecord, handler: logging.Handler) -> None:
        stream = _pipe_of(handler)
        if stream is None:
            handler.handle(record)
        elif handler.filter(record):
            line = handler.format(record) + logging.StreamHandler.terminator
            data = line.encode(errors="backslashreplace")
            write_in_pieces(stream, data, lambda: self._leaving)

    def _destinations(self) -> list[logging.Handler]:
        handlers = list(self._handlers)
        above = self._logger.parent if self._propagate else None
        while above is not None:
            handlers.extend(above.handlers)
            above = above.parent if above.propagate else None
        if not handlers and logging.lastResort is not None:
            handlers.append(logging.lastResort)
        return handlers


def _pipe_of(handler: logging.Handler) -> int | None:
    """Return the descriptor that a plain stream handler writes to; None for others."""
    if type(handler) not in (logging.StreamHandler, type(logging.lastResort)):
        return None
    try:
        return int(handler.stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None  # no stream of the operating system: it cannot be full


class _Dropping(QueueHandler):
    """Drops what finds no room, and says later how much that was."""

    def __init__(self, records: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(records)
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._dropped:
            record.msg = f"{record.getMessage()} ({self._dropped} log lines dropped)"
            record.args = None
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0
