"""Where are a job's temporary files, so that none of them outlives it?

Each job has a folder of its own, TMPDIR to it and to all that it starts. It is made
before the job begins, and removed when its process is dead and swept, however that
came.
"""

import contextlib
import hashlib
import logging
import os
import queue
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import processes

logger = logging.getLogger("background_task.supervisor")

_PREFIX = "background-task"
_LAST_WAIT = 5.0  # seconds for what is still to be removed at the end


class Folders:
    """Makes them in the loop, which takes no time, and removes them in a thread."""

    def __init__(self) -> None:
        self._base: Path | None = None
        self._failed = False
        self._condemned: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._remove, name="temporary folders", daemon=True
        )

    def __enter__(self) -> Self:
        place = hashlib.sha256(processes.place().encode()).hexdigest()[:8]
        parent = Path(tempfile.gettempdir())
        for left in _left_behind(parent, place):
            self._condemned.put(left)
        pid = os.getpid()
        started = processes.started(pid)
        self._base = parent / f"{_PREFIX}-{place}-{pid}-{started}"
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._base is not None:
            self._condemned.put(self._base)
        self._condemned.put(None)
        self._thread.join(_LAST_WAIT)

    def make(self, name: str) -> str | None:
        """Return a new folder; None, and said once, when none can be made."""
        if self._base is None:
            return None
        folder = self._base / name
        try:
            with contextlib.suppress(FileExistsError):
                self._base.mkdir(mode=0o700)
            folder.mkdir(mode=0o700)
        except OSError as error:
            if not self._failed:
                logger.error("Tasks have no temporary folders of their own: %s", error)
            self._failed = True
            return None
        self._failed = False
        return str(folder)

    def remove(self, folder: str) -> None:
        """Have it and all that is in it removed."""
        try:
            os.rmdir(folder)  # most are empty
        except FileNotFoundError:
            return
        except OSError:
            self._condemned.put(Path(folder))

    def _remove(self) -> None:
        """Runs in the thread."""
        while (folder := self._condemned.get()) is not None:
            shutil.rmtree(folder, onerror=_insist)


def _left_behind(parent: Path, place: str) -> Iterator[Path]:
    """Yield the folders of supervisors of this place that are dead."""
    for folder in parent.glob(f"{_PREFIX}-{place}-*-*"):
        pid, started = folder.name.split("-")[-2:]
        known = pid.isdecimal() and started.isdecimal()
        if known and processes.presence(int(pid), int(started)) == "gone":
            yield folder


def _insist(function: Any, path: str, error: Any) -> None:
    """Try once more what could not be removed from a folder without permission."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), stat.S_IRWXU)
        if function in (os.scandir, os.open) or os.path.isdir(path):
            os.chmod(path, stat.S_IRWXU)
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
