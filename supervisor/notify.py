"""What is the service manager told of this process? The protocol is sd_notify(3).

It is a datagram of a few lines to the socket that NOTIFY_SOCKET names. Where there is
none, as in a shell or a container, nothing is told.
"""

import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from . import clock

# They are meant for this process alone. What a task says must not count as ours.
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_STATUS_EVERY = 1.0  # seconds between two changes of the status


class Service:
    """This process, as its service manager sees it: ready, alive, stopping.

    Called from the loop: nothing here blocks, and nothing is raised. What finds no room
    is said again in the next turn.
    """

    def __enter__(self) -> Self:
        """Take over what the environment has for this process: nobody inherits it."""
        self._taken = {name: os.environ.pop(name) for name in _OURS & os.environ.keys()}
        self._address = _address(self._taken.get("NOTIFY_SOCKET", ""))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._beat_every = _beat_every(self._taken)
        self.beat_at = 0.0 if self._beat_every else None
        self._told: set[str] = set()
        self._status, self._status_at = "", 0.0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.environ.update(self._taken)
        self._socket.close()

    def tell(self, *, ready: bool, stopping: bool, status: str) -> None:
        """Say what is new of it, and at half of the watchdog's time that it is alive.

        `stopping` has the manager count its time for a stop, and kill what is there at
        its end.
        """
        if not self._address:
            return
        now = clock.now()
        once = {"READY=1": ready, "STOPPING=1": stopping}
        news = [line for line, is_so in once.items() if is_so]
        news = [line for line in news if line not in self._told]
        has_changed = status != self._status and now >= self._status_at
        beats = self.beat_at is not None and now >= self.beat_at
        lines = [*news, *[f"STATUS={status}"] * has_changed, *["WATCHDOG=1"] * beats]
        if not lines or not self._send("\n".join(lines)):
            return
        self._told.update(news)
        if has_changed:
            self._status, self._status_at = status, now + _STATUS_EVERY
        if beats:
            self.beat_at = now + self._beat_every

    def _send(self, text: str) -> bool:
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:  # it has no room for it now, or is not there
            return False
        return True


def _address(name: str) -> str:
    """Return where the manager's socket is; nothing, if it is none that we can reach.

    "@" stands for the NUL byte with which the name of an abstract socket begins.
    """
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _beat_every(environment: Mapping[str, str]) -> float:
    """Return how many seconds may lie between two signs of life; 0.0: none is wanted.

    Half of what is allowed. A WATCHDOG_PID that is not this process's means another.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    allowed = environment.get("WATCHDOG_USEC", "")
    return int(allowed) / 2_000_000 if allowed.isdecimal() else 0.0
