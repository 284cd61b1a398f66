"""What tasks leave behind: their number, their process, and the moment."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# On time.monotonic(), which all processes of a machine share.
FORMAT = struct.Struct("=iid")


class Record(NamedTuple):
    number: int
    pid: int
    at: float


class Records:
    """The file that tasks append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return self.path.stat().st_size // FORMAT.size if self.path.exists() else 0

    def all(self) -> list[Record]:
        """Return them in the order in which they were left."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = len(data) // FORMAT.size * FORMAT.size
        return [Record(*fields) for fields in FORMAT.iter_unpack(data[:whole])]

    def wait_for(
        self, n: int, patience: float, is_alive: Callable[[], str], every: float = 0.01
    ) -> list[Record]:
        """Return the records when there are `n`.

        Raises Stalled when none came for `patience` seconds, or when `is_alive` says
        what has died.
        """
        seen, seen_at = -1, time.monotonic()
        while (now := len(self)) < n:
            if now > seen:
                seen, seen_at = now, time.monotonic()
            elif time.monotonic() > seen_at + patience:
                raise Stalled(f"{now} of {n} done, and no more for {patience:g} s")
            elif dead := is_alive():
                raise Stalled(f"{now} of {n} done, then {dead}")
            time.sleep(every)
        return self.all()


class Stalled(Exception):
    """The tasks do not get done."""
