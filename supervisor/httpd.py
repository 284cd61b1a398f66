"""How are a few questions answered over HTTP, so that no client can keep us?

GET and HEAD of short requests, one for each connection; each has a few seconds in all,
whatever the other side does or leaves undone.
"""

import contextlib
import http
import logging
import socket
import threading
from collections.abc import Callable

from . import clock
from .options import OptionError

logger = logging.getLogger("background_task.supervisor")

Answer = tuple[int, str, bytes]  # the status, the type of the content, the content

_SECONDS = 5.0  # for one request to come, and for its answer to go
_LONGEST = 8192  # bytes of a request
_AT_A_TIME = 32  # requests; what comes beyond that is turned away
_PAUSE = 0.1  # seconds, where no file may be opened


def text(status: int, line: str) -> Answer:
    """Return an answer of one line of text."""
    return status, "text/plain; charset=utf-8", f"{line}\n".encode()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; without a host, on every interface.

    Raises OptionError if that cannot be.
    """
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        (family, *_, address), *_ = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        where = f"port {port} of {host or 'every interface'}"
        raise OptionError(
            f"--probe-port: nothing can listen on {where}: {error.strerror or error}"
        ) from error


class Server:
    """Answers by what `answer` returns for a path."""

    def __init__(
        self, listening: socket.socket, answer: Callable[[str], Answer]
    ) -> None:
        self._listening = listening
        self._answer = answer
        self._room = threading.BoundedSemaphore(_AT_A_TIME)

    def serve(self) -> None:
        """Serve until the socket is closed."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # the client is gone already, or there is no room for it
                if self._listening.fileno() < 0:
                    return
                threading.Event().wait(_PAUSE)
                continue
            if self._room.acquire(blocking=False):
                self._start(connection)
            else:
                connection.close()

    def _start(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads
            connection.close()
            self._room.release()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):  # it went away, or is slow
                line = _first_line(connection)
                if line is not None:
                    connection.settimeout(_SECONDS)
                    connection.sendall(self._response(line))
        finally:
            self._room.release()

    def _response(self, line: str) -> bytes:
        words = line.split()
        if len(words) < 2 or not words[1].startswith("/"):
            return _response(*text(400, "This is no request of HTTP"))
        method, path = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response(*text(405, "Only GET and HEAD"), "Allow: GET, HEAD")
        try:
            status, kind, body = self._answer(path)
        except Exception:
            logger.exception("The answer to %s failed", path)
            status, kind, body = text(500, "It failed; the log says why")
        return _response(status, kind, body, has_body=method == "GET")


def _first_line(connection: socket.socket) -> str | None:
    """Read a request to the end of its headers; None: it did not come in time."""
    give_up_at, data = clock.now() + _SECONDS, b""
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        left = give_up_at - clock.now()
        if left <= 0 or len(data) >= _LONGEST:
            return None
        connection.settimeout(left)
        more = connection.recv(_LONGEST)
        if not more:
            return None
        data += more
    return data.partition(b"\n")[0].decode("latin-1").strip()


def _response(
    status: int, kind: str, body: bytes, *headers: str, has_body: bool = True
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *headers,
    ]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + body if has_body else head
