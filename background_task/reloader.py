"""How does `process_tasks --dev` start again when the code has changed?

It watches the project's files and runs `process_tasks` as a process of its own, which
it stops by SIGTERM: what runs may finish, for the drain time.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.utils import autoreload

_PARENT = "BACKGROUND_TASK_RELOADER"  # pid of the one that watches


class Reloader:
    """Runs a command line anew after each change of a file of the project."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        """`write` tells people what happens."""
        self._write = write
        self._process: subprocess.Popen[bytes] | None = None
        self._changed: Path | None = None
        self._leaving = False

    def run(self) -> int:
        """Run until told to leave, or until it ends well by itself; return its status.

        One that fails is started again after the next change.
        """
        command = _command()
        watcher = autoreload.get_reloader()
        for app in apps.get_app_configs():
            watcher.watch_dir(Path(app.path), "**/*.py")
        former = {n: signal.signal(n, self._leave) for n in _stop_signals()}
        autoreload.file_changed.connect(self._note_change)
        ticks = watcher.tick()
        try:
            while not self._leaving:
                self._changed = None
                self._process = _start(command)
                self._wait(ticks)
                status = self._end()
                if status == 0 and not self._changed:
                    return 0
            return 0
        finally:
            self._end()
            autoreload.file_changed.disconnect(self._note_change)
            for number, handler in former.items():
                signal.signal(number, handler)

    def _wait(self, ticks: Any) -> None:
        """Return when a file has changed, it ended well, or somebody wants to leave."""
        assert self._process is not None
        told = False
        for _ in ticks:
            status = self._process.poll()
            if self._leaving or self._changed or status == 0:
                return
            if status is not None and not told:
                told = True
                self._write(f"It ended with status {status}; waiting for a change.")

    def _note_change(self, file_path: Path, **kwargs: Any) -> bool:
        """Keep Django from ending this process, whose code does not matter."""
        if file_path.suffix != ".py":
            return False
        if self._changed is None:
            self._write(f"{file_path} has changed: starting again.")
        self._changed = file_path
        return True

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self._leaving = True
        if self._process is not None:
            self._process.terminate()  # a second time: at once

    def _end(self) -> int | None:
        """Have it stop, and wait until it has; return its exit status."""
        if self._process is None:
            return None
        if self._process.poll() is None and not self._leaving:
            self._process.terminate()
        return self._process.wait()


def end_with_parent(prctl: Callable[[int], None]) -> None:
    """End as by SIGTERM when the one that watches is killed; called by its command.

    `prctl` asks the operating system for a signal at the parent's death.
    """
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return
    prctl(signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("The process that watches the files is gone.")


def _command() -> list[str]:
    if "--dev" not in sys.argv:
        raise CommandError("--dev watches and runs a command line: use it on one.")
    return [part for part in autoreload.get_child_arguments() if part != "--dev"]


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start it out of reach of the terminal's signals, which come through this one."""
    environment = {**os.environ, _PARENT: str(os.getpid())}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _stop_signals() -> list[int]:
    return [signal.SIGTERM, signal.SIGINT]
