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

    And those of the loggers below it, whose handlers would be called right here. A full
    log pipe then stops that thread and not the limits; what finds no room is dropped
    and counted.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(_ROOM)
        self._handler = _Dropping(self._records)
        self._leaving = False
        # What the loggers had before: their handlers, and whether they propagate.
        self._before: dict[logging.Logger, tuple[list[logging.Handler], bool]] = {}
        self._thread = threading.Thread(
            target=self._write, name="log relay", daemon=True
        )

    def __enter__(self) -> Self:
        for logger in (self._logger, *_loggers_below(self._logger.name)):
            self._before[logger] = logger.handlers, logger.propagate
        self._thread.start()
        for logger in self._before:
            logger.handlers, logger.propagate = [], True
        self._logger.handlers = [self._handler]
        self._logger.propagate = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for logger, (handlers, propagates) in self._before.items():
            logger.handlers, logger.propagate = handlers, propagates
        with contextlib.suppress(queue.Full):  # nobody reads the log
            self._records.put(None, timeout=_LAST_WAIT)
        self._thread.join(_LAST_WAIT)
        self._leaving = True
        self._thread.join(_LAST_WAIT)

    def _write(self) -> None:
        """Write the records where they would have gone. Runs in the thread."""
        while not self._leaving and (record := self._records.get()) is not None:
            for handler in self._destinations(logging.getLogger(record.name)):
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

    def _destinations(self, logger: logging.Logger) -> list[logging.Handler]:
        """Return the handlers that a logger's records would have gone to."""
        found: list[logging.Handler] = []
        above: logging.Logger | None = logger
        while above is not None:
            handlers, propagates = self._before.get(
                above, (above.handlers, above.propagate)
            )
            found.extend(handlers)
            above = above.parent if propagates else None
        if not found and logging.lastResort is not None:
            found.append(logging.lastResort)
        return found


def _loggers_below(name: str) -> list[logging.Logger]:
    known = dict(logging.root.manager.loggerDict)
    return [
        logger
        for below, logger in known.items()
        if below.startswith(f"{name}.") and isinstance(logger, logging.Logger)
    ]


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
