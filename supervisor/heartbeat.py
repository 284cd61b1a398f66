"""How do others see, without asking anybody, that the supervisor's loop goes on?

By a file of one line, which `background_task/probe.py` reads. It imports nothing of
ours, so that it is fast, and this module is not read without psutil.
"""

import contextlib
import json
import logging
import os

from . import clock
from .options import OptionError
from .queue import Runner

logger = logging.getLogger("background_task.supervisor")


class Heartbeat:
    """A file that is written anew, as a whole, with every beat.

    It belongs on a local file system, best in memory: the loop waits for the write.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._new = f"{self.path}.{os.getpid()}"
        self._failed = False

    def begin(self) -> None:
        """See that it can be written; raises OptionError if not."""
        try:
            self._write("")
        except OSError as error:
            text = f"The heartbeat file {self.path} cannot be written: {error.strerror}"
            raise OptionError(text) from error

    def beat(self, runner: Runner, why_not: str, paused: str) -> None:
        """Say that the loop goes on, and why the runner is not ready if it is not.

        And what is `paused`, if something is.
        """
        said = {
            "at": clock.now(),
            "place": runner.place,
            "pid": runner.pid,
            "started": runner.started,
            "why_not": why_not,
            "paused": paused,
        }
        try:
            self._write(json.dumps(said) + "\n")
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.error(
                    "The heartbeat file %s could not be written: %s. Who looks at it "
                    "will take this runner for dead",
                    self.path,
                    error.strerror,
                )
            self._failed = True

    def end(self) -> None:
        """Remove it: nothing beats any more."""
        for path in (self._new, self.path):
            with contextlib.suppress(OSError):  # it is not there, nor can it be made
                os.unlink(path)

    def _write(self, text: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._new)  # one that was killed has left it behind
        with open(self._new, "x", encoding="ascii") as file:  # it follows no link
            file.write(text)
        os.replace(self._new, self.path)
