"""Can the project be set up, and which tasks has it?

What cannot be cured by waiting is returned as a text, with which the runner ends.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any

from . import clock

logger = logging.getLogger("background_task.supervisor")

_IN_A_ROW = 3  # failures, after which the next would be one, too
_CANNOT = "The project cannot be set up:\n{}"


class Discovery:
    """What is known of the project, and how it went to set it up."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: the seconds in which it must be known which tasks there are."""
        self._timeout = timeout
        self._until = math.inf
        self.tasks: dict[str, Any] | None = None  # by name; None: it is not known yet
        self.queues: tuple[str, ...] = ()  # that they name
        self._warned_of: set[str] = set()
        self._unprepared = 0  # processes of tasks, in a row
        self._died_unready = 0  # launchers, in a row

    def begin(self) -> None:
        """From now on it is waited for."""
        self._until = clock.now() + self._timeout

    @property
    def due(self) -> float:
        """By when must it be known?"""
        return self._until if self.tasks is None else math.inf

    def found(self, tasks: dict[str, Any]) -> None:
        self.tasks = tasks
        named = {task.get("queue") for task in tasks.values()}
        self.queues = tuple(sorted(queue for queue in named if queue))

    def warn(self, doubts: Iterable[str]) -> None:
        """Tell each doubt about the project once."""
        for text in doubts:
            if text not in self._warned_of:
                logger.warning("%s", text)
                self._warned_of.add(text)

    def too_late(self) -> str:
        if clock.now() < self.due:
            return ""
        return (
            f"The project's tasks were not discovered within {self._timeout:g} s "
            "(BACKGROUND_TASK_START_TIMEOUT): an import of it hangs, or is slow"
        )

    def failed(self, traceback: str) -> str:
        """Say that the setting up has raised this."""
        return _CANNOT.format(traceback)

    def launcher_died(self, *, ready: bool) -> str:
        """Give up on a project whose set-up kills the process, again and again."""
        self._died_unready = 0 if ready else self._died_unready + 1
        text = "The process that sets the project up died without a word."
        return _CANNOT.format(text) if self._died_unready >= _IN_A_ROW else ""

    def was_prepared(self) -> None:
        """A task's process has set the project up."""
        self._unprepared = 0

    def was_not_prepared(self, traceback: str) -> str:
        """A task's process could not set the project up."""
        self._unprepared += 1
        return self.failed(traceback) if self._unprepared >= _IN_A_ROW else ""
