"""How does what a task prints get into the log? `process_tasks --log-std`."""

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

# Upstream logged it under the name of its command.
logger = logging.getLogger("background_task.management.commands.process_tasks")


@contextlib.contextmanager
def logged(*, wanted: bool) -> Iterator[None]:
    """Log each line that is printed meanwhile: stdout's at INFO, stderr's at ERROR."""
    if not wanted:
        yield
        return
    with (
        _LineLog(sys.stdout, logging.INFO) as out,
        _LineLog(sys.stderr, logging.ERROR) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        yield


def say(stream: Any, line: str) -> None:
    """Write a line; a stream that is closed or full is no reason to stop.

    Past its buffer, which would keep the line and fail once more when Python exits.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.flush()
        try:
            fd = stream.fileno()
        except io.UnsupportedOperation:  # it is in memory only
            stream.write(f"{line}\n")
        else:
            os.write(fd, f"{line}\n".encode(errors="backslashreplace"))


class _LineLog(io.TextIOBase):
    """A text stream that logs whole lines; the last one may lack its end.

    A log handler that writes to the stream in whose place this one stands is let
    through to that: it would log without end what it has just logged.
    """

    def __init__(self, stream: TextIO, level: int) -> None:
        super().__init__()
        self._stream = stream
        self._level = level
        self._lock = threading.RLock()
        self._line = ""
        self._logging = False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property at run time
        return self._stream.encoding

    @property
    def buffer(self) -> Any:
        """Bytes are let through as they are."""
        return self._stream.buffer

    def fileno(self) -> int:
        """Subprocesses write to the stream itself: only this process's text is seen."""
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            if self._logging:
                return self._stream.write(text)
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._log(line)
        return len(text)

    def close(self) -> None:
        """Log what has no end of line yet."""
        with self._lock:
            if not self.closed and self._line:
                self._log(self._line)
                self._line = ""
        super().close()

    def _log(self, line: str) -> None:
        if not line.strip():
            return
        self._logging = True
        try:
            logger.log(self._level, "%s", line)
        finally:
            self._logging = False
