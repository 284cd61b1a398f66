"""What can a task ask and say about the try that it is?"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

_SAY_EVERY = 0.1  # seconds between two messages about progress


class _Try(Protocol):
    """What is needed of the context in which a supervised task runs."""

    deadline: float | None

    def progress(self, done: int, total: int | None, message: str) -> None: ...

    def session(self, session: dict[str, Any]) -> None: ...

    def now(self) -> float: ...


class CurrentTask:
    """The task that runs in this process; there is one at a time.

    Where none runs, as in a test that calls the function, everything is None and
    `progress` does nothing. Its methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._try: _Try | None = None
        self._unsaid: tuple[int, int | None, str] | None = None
        self._said_at = 0.0
        self.id: int | None = None
        self.attempt: int | None = None
        self.claim: str | None = None

    def enter(self, pk: int, attempt: int, claim: str, of: _Try | None = None) -> None:
        """A task begins. Called by whoever runs it."""
        self._try, self._unsaid, self._said_at = of, None, 0.0
        self.id, self.attempt, self.claim = pk, attempt, claim

    @contextlib.contextmanager
    def as_another(self, pk: int, attempt: int, claim: str) -> Iterator[None]:
        """Be another task meanwhile, which a task runs in its own process."""
        former = self._try, self._unsaid, self.id, self.attempt, self.claim
        self.enter(pk, attempt, claim)
        try:
            yield
        finally:
            self.leave()
            self._try, self._unsaid, self.id, self.attempt, self.claim = former

    def leave(self) -> None:
        """It has ended; what it said last is passed on."""
        with self._lock:
            if self._unsaid is not None:
                self._say(self._unsaid)
            self._try = self.id = self.attempt = self.claim = None

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Say how much is done, of how much, and in which words (200 characters).

        It goes to the supervisor and not to the database, so it is seen while a
        transaction is open; the task's row has it within a second or two. A task with
        a `stall_timeout` is stopped if it says nothing for so long. Raises TypeError
        for what is no whole number.
        """
        for number in (done, total):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not whole and number is not None:
                raise TypeError(f"progress() takes whole numbers, and not {number!r}")
        if not isinstance(done, int):
            raise TypeError("progress() must be told how much is done")
        with self._lock:
            if self._try is None:
                return
            self._unsaid = _bounded(done), total and _bounded(total), message[:200]
            if time.monotonic() - self._said_at >= _SAY_EVERY:
                self._say(self._unsaid)

    def _say(self, news: tuple[int, int | None, str]) -> None:
        if self._try is not None:
            self._try.progress(*news)
            self._unsaid, self._said_at = None, time.monotonic()

    def tell_of_session(self, session: dict[str, Any]) -> None:
        """Have a session of its ended elsewhere if this process has to be killed."""
        with self._lock:
            if self._try is not None:
                self._try.session(session)

    def time_left(self) -> float | None:
        """Return the seconds until `max_run_time` is over; None: there is no limit."""
        if self._try is None or self._try.deadline is None:
            return None
        return max(0.0, self._try.deadline - self._try.now())

    def __repr__(self) -> str:
        if self.id is None:
            return "<no task runs in this process>"
        return f"<try {self.attempt} of task {self.id}>"


def _bounded(number: int) -> int:
    """Return the number, or the nearest that a column can hold."""
    return max(-(2**63), min(number, 2**63 - 1))


current_task = CurrentTask()
