"""How do two of our processes talk? JSON lines over a private socket pair."""

import array
import contextlib
import errno
import json
import math
import os
import select
import socket
from collections import deque
from collections.abc import Iterable
from typing import Any

Message = dict[str, Any]

_CHUNK = 65_536
# What sending says when there is no room now: in the socket, for descriptors that are
# under way, in the memory that the kernel may take for us.
_NO_ROOM = {
    *(errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR),
    *(errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS),
}
_ROOM_FOR_FDS = socket.CMSG_SPACE(64 * array.array("i").itemsize)


class Channel:
    """One end of a private socket pair: messages out and in, neither ever blocks.

    A message is one JSON object with a `kind`. It may carry open file descriptors,
    which the channel takes over: they are closed here once they have been sent. A
    message arrives without them where no more files may be open.
    What is sent to a dead peer is dropped; `ended` says that it is gone.
    """

    def __init__(self, end: socket.socket, longest: int | None = None) -> None:
        """Take over `end`. A peer with a `longest` line, in bytes, is not trusted.

        Longer lines of it are dropped, and so are its descriptors.
        """
        end.setblocking(False)
        self._socket = end
        self._longest = longest
        self._incoming = bytearray()
        self._skipping = False  # what comes is the rest of a line that is too long
        self._received_fds: deque[list[int]] = deque()  # of one message each
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self.ended = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def waiting_to_send(self) -> bool:
        """Is there something that the peer has had no room for yet?"""
        return bool(self._outgoing)

    def send(self, kind: str, /, fds: Iterable[int] = (), **fields: Any) -> None:
        """Send a message, or keep it until there is room for it."""
        fds = list(fds)
        message = {"kind": kind, **({"fds": len(fds)} if fds else {}), **fields}
        # On a line of its own: a task may have written a part of one.
        line = b"\n" + json.dumps(message).encode() + b"\n"
        self._outgoing.append((memoryview(line), fds))
        self.flush()

    def flush(self) -> None:
        """Send as much of what is waiting as there is room for."""
        while self._outgoing:
            data, fds = self._outgoing.popleft()
            try:
                sent = self._socket.sendmsg([data], _rights(fds))
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._outgoing.appendleft((data, fds))
                    return
                _close_all(fds)  # the peer is gone: nobody is left to read it
                continue
            _close_all(fds)  # they travel with the first byte
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], []))

    def wait(self) -> None:
        """Wait until the peer has said something, or is gone; send what is waiting."""
        wait([self], [self] if self.waiting_to_send else [])
        self.flush()

    def receive(self, most: int = 1 << 20) -> list[Message]:
        """Return the whole messages that have arrived, reading at most `most` bytes.

        At the end of the stream `ended` becomes True.
        """
        while most > 0 and not self.ended:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    _CHUNK,
                    _ROOM_FOR_FDS if self._longest is None else 0,
                    getattr(socket, "MSG_CMSG_CLOEXEC", 0),
                )
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # reset by a peer that died with unread data
                data, ancillary, flags = b"", [], 0
            # One call returns those of one message; truncated, if we may have no more.
            if ancillary or (flags & socket.MSG_CTRUNC and self._longest is None):
                self._received_fds.append(_fds_of(ancillary))
            self._incoming += data
            self.ended = not data
            most -= len(data)
        return self._whole_messages()

    def _whole_messages(self) -> list[Message]:
        *lines, rest = self._incoming.split(b"\n")
        if lines and self._skipping:
            del lines[0]
            self._skipping = False
        self._skipping = self._skipping or self._is_too_long(rest)
        self._incoming = bytearray() if self._skipping else rest
        fit = (line for line in lines if line and not self._is_too_long(line))
        messages = (self._decode(line) for line in fit)
        return [message for message in messages if message is not None]

    def _is_too_long(self, line: bytearray) -> bool:
        return self._longest is not None and len(line) > self._longest

    def _decode(self, line: bytearray) -> Message | None:
        """Return the message, or None for what none of our processes has written."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(message, dict) or "kind" not in message:
            return None
        count = message.pop("fds", 0)
        if count and self._received_fds:
            fds = self._received_fds.popleft()
            if len(fds) == count:
                message["fds"] = fds
            else:
                _close_all(fds)
        return message

    def hang_up(self) -> None:
        """Say no more; what was sent can still be read, and so can the other side."""
        with contextlib.suppress(OSError):  # the peer is gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end, and every descriptor that was to be sent or taken."""
        for _, fds in self._outgoing:
            _close_all(fds)
        self._outgoing.clear()
        for fds in self._received_fds:
            _close_all(fds)
        self._received_fds.clear()
        self._socket.close()
        self.ended = True


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new private socket pair."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def wait(
    readable: Iterable[Any], writable: Iterable[Any] = (), timeout: float | None = None
) -> set[int]:
    """Wait until one has something to read, or room; at the longest `timeout` s.

    Returns the descriptors of those that have.
    Unlike `select()`, for descriptors over 1023 too.
    """
    poll = select.poll()
    events: dict[int, int] = {}
    for one in readable:
        events[one.fileno()] = select.POLLIN
    for one in writable:
        events[one.fileno()] = events.get(one.fileno(), 0) | select.POLLOUT
    for fd, mask in events.items():
        poll.register(fd, mask)
    ready = poll.poll(None if timeout is None else math.ceil(timeout * 1000))
    return {fd for fd, _ in ready}


def _rights(fds: list[int]) -> list[tuple[int, int, bytes]]:
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


def _fds_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
