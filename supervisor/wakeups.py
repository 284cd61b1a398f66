"""How does the loop hear of signals? A handler leaves a note and rings the bell."""

import contextlib
import signal
import socket
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self


class Wakeups:
    """Turns signals into notes that the loop takes when it wakes; main thread only.

    Those that were blocked until now, so that none was lost, are heard.
    """

    def __init__(self, heeded: Iterable[signal.Signals]) -> None:
        self._heeded = tuple(heeded)
        self._notes: list[int] = []
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._former_fd = signal.set_wakeup_fd(
            self._button.fileno(), warn_on_full_buffer=False
        )
        for number in self._heeded:
            self._former[number] = signal.signal(number, self._leave_note)
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._heeded)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)
        signal.set_wakeup_fd(self._former_fd)
        self._bell.close()
        self._button.close()

    def fileno(self) -> int:
        return self._bell.fileno()

    def forget(self) -> None:
        """Close what a forked child has inherited of it; its handlers stay."""
        signal.set_wakeup_fd(-1)
        self._bell.close()
        self._button.close()

    def take(self) -> list[int]:
        """Return the signals that have arrived since the last call, in order."""
        with contextlib.suppress(BlockingIOError):  # the bell is silent again
            while self._bell.recv(4096):
                pass
        notes, self._notes = self._notes, []
        return notes

    def _leave_note(self, number: int, frame: FrameType | None) -> None:
        # No logging, no decision: the wakeup fd has rung the bell already.
        self._notes.append(number)
