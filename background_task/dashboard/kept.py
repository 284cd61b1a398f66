"""How is a costly answer kept for some seconds, however many ask?"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


class Kept(Generic[_Answer]):
    """An answer that is asked for again when it is some seconds old, by one thread."""

    def __init__(self, seconds: float, ask: Callable[[], _Answer]) -> None:
        self._seconds, self._ask = seconds, ask
        self._lock = threading.Lock()
        self._known: tuple[float, _Answer] | None = None

    def __call__(self) -> _Answer:
        with self._lock:
            if self._known is None or time.monotonic() > self._known[0]:
                answer = self._ask()  # which may take longer than it is kept
                self._known = time.monotonic() + self._seconds, answer
            return self._known[1]

    def forget(self) -> None:
        with self._lock:
            self._known = None
