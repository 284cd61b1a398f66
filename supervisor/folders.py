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
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from . import processes

logger = logging.getLogger("background_task.supervisor")

_NAME = "background-task-{place}-{pid}-{started}-"
_LAST_WAIT = 5.0  # seconds for what is still to be removed at the end


class Folders:
    """Makes them in the loop, which takes no time, and removes them in a thread."""

    def __init__(self) -> None:
        self._base: str | None = None  # of this supervisor's
        self._failed = False
        self._condemned: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._remove, name="temporary folders", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        pid = os.getpid()
        place = hashlib.sha256(processes.place().encode()).hexdigest()[:8]
        name = _NAME.format(place=place, pid=pid, started=processes.started(pid))
        try:
            # Nobody else can make it or know its name before: see tempfile.
            self._base = tempfile.mkdtemp(prefix=name)
            for left in _left_behind(Path(self._base).parent, place):
                self._condemned.put(left)
        except OSError as error:
            self._has_failed(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._base is not None:
            self._condemned.put(Path(self._base))
        self._condemned.put(None)
        self._thread.join(_LAST_WAIT)

    def make(self, name: str) -> str | None:
        """Return a new folder; None, and said once, when none can be made."""
        if self._base is None:
            return None
        folder = f"{self._base}/{name}"  # by text: it is done for every job
        try:
            os.mkdir(folder, 0o700)
        except OSError as error:
            self._has_failed(error)
            return None
        self._failed = False
        return folder

    def _has_failed(self, error: OSError) -> None:
        if not self._failed:
            logger.error("Tasks have no temporary folders of their own: %s", error)
        self._failed = True

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
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():  # a task may have taken its own permissions away
                _open_up(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """Have permission in all folders below this one; links are not followed."""
    for root, names, _ in os.walk(folder):
        for path in (os.path.join(root, name) for name in names):
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, stat.S_IRWXU)


def _left_behind(parent: Path, place: str) -> Iterator[Path]:
    """Yield what supervisors of this place have left that are dead, if it is ours."""
    pattern = re.compile(_NAME.format(place=place, pid=r"(\d+)", started=r"(\d+)"))
    for folder in parent.iterdir():
        match = pattern.match(folder.name)
        if match and _is_our_folder(folder):
            pid, started = map(int, match.groups())
            if processes.presence(pid, started) == "gone":
                yield folder


def _is_our_folder(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:  # another has removed it
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
