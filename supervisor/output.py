"""What has a job printed? The head and the tail are kept, and all of it goes on."""

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .evidence import cleaned

KEPT = 32_768  # bytes of the head, and of the tail
_CHUNK = 65_536
_LONGEST_LINE = 8_192  # bytes that are held back for the rest of their line
_ROOM = 1 << 20  # bytes that may wait for whoever reads them
_LAST_WAIT = 2.0  # seconds for what is still to be written at the end
_LOOK_EVERY = 0.2  # seconds, whether it is time to leave


class Capture:
    """The pipe that a job's stdout and stderr are, as the supervisor sees it.

    Whoever writes to it is seen: C code and subprocesses too, and up to a crash.
    Nothing here blocks.
    """

    def __init__(self, relay: "Relay") -> None:
        """Raises OSError when no descriptors are to be had."""
        self._relay = relay
        self._pipe, self.theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        self._head, self._tail = bytearray(), bytearray()
        self._line = bytearray()  # the beginning of one that goes on as a whole
        self.size = 0  # bytes
        self.ended = False  # nobody is left who could write

    def fileno(self) -> int:
        return self._pipe

    def read(self, most: int) -> None:
        """Take in what was printed, at most so many bytes of it."""
        while most > 0 and not self.ended:
            try:
                data = os.read(self._pipe, min(most, _CHUNK))
            except BlockingIOError:
                return
            self.ended = not data
            self._keep(data)
            self._hand_on(data)
            most -= len(data)

    def text(self) -> str:
        """Return the head and the tail of it."""
        tail = self._tail[-KEPT:]
        left_out = self.size - len(self._head) - len(tail)
        middle = b"\n[... %d bytes ...]\n" % left_out if left_out else b""
        return cleaned((self._head + middle + tail).decode(errors="replace"))

    def start_anew(self) -> None:
        """Hand on what is an unfinished line, and forget what was kept: of a job."""
        if self._line:
            self._relay.offer(bytes(self._line) + b"\n")
        for kept in (self._line, self._head, self._tail):
            kept.clear()
        self.size = 0

    def close(self) -> None:
        """Do the same, and hear no more."""
        self.start_anew()
        self.ended = True
        os.close(self._pipe)

    def _keep(self, data: bytes) -> None:
        self.size += len(data)
        room = KEPT - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * KEPT:
            del self._tail[:-KEPT]

    def _hand_on(self, data: bytes) -> None:
        """Hand on whole lines, so that those of several jobs are not mixed."""
        end = data.rfind(b"\n") + 1
        if not end and len(self._line) + len(data) > _LONGEST_LINE:
            end = len(data)
        if end:
            self._relay.offer(bytes(self._line + data[:end]))
            self._line.clear()
        self._line += data[end:]


class Relay:
    """Hands on to a thread what is to be written to a descriptor.

    What finds no room, since nobody reads it there, is dropped and counted.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._dropped = 0  # bytes
        self._leaving = False
        self._thread = threading.Thread(
            target=self._write, name="output relay", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._chunks.put(None)
        self._thread.join(_LAST_WAIT)
        self._leaving = True
        self._thread.join(_LAST_WAIT)

    def offer(self, data: bytes) -> None:
        """Have it written, if there is room for it."""
        with self._lock:
            if self._waiting and self._waiting + len(data) > _ROOM:
                self._dropped += len(data)
                return
            notice = b""
            if self._dropped:
                text = f"[{self._dropped} bytes of output dropped: nobody read them]\n"
                notice, self._dropped = text.encode(), 0
            self._waiting += len(data)
        if notice or data:
            self._chunks.put(notice + data)

    def _write(self) -> None:
        while not self._leaving and (data := self._chunks.get()) is not None:
            write_in_pieces(self._fd, data, lambda: self._leaving)
            with self._lock:
                self._waiting = max(0, self._waiting - len(data))


def write_in_pieces(fd: int, data: bytes, leaving: Callable[[], bool]) -> None:
    """Write as there is room for it; give up when `leaving()` before it is all.

    A thread that hangs in a write holds locks without which the interpreter cannot
    exit. What `poll` calls writable takes a piece of this size without waiting.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    for start in range(0, len(data), select.PIPE_BUF):
        while not poll.poll(_LOOK_EVERY * 1000):
            if leaving():
                return
        with contextlib.suppress(OSError):  # nobody is left to read it
            os.write(fd, data[start : start + select.PIPE_BUF])
