"""What can go wrong, by name."""

import traceback
from typing import Any

# Longer texts are cut in the middle: the beginning says where, the end says what.
LONGEST_TEXT = 100_000


class BackgroundTaskError(Exception):
    """The base of this package's exceptions; `errors` may carry details."""

    def __init__(self, message: str = "", errors: Any = None) -> None:
        super().__init__(message)
        self.errors = errors


class InvalidTaskError(BackgroundTaskError):
    """Raised by a task that must not be tried again: it fails for good at once."""

    permanent = True  # the verdict that crosses the process border


class TaskCrashed(BackgroundTaskError):
    """A task's process went without a word; sender of `task_error` only."""


class TaskLost(BackgroundTaskError):
    """Nobody was watching when a task's process went; sender of `task_error` only."""


class Stopped(BaseException):
    """Raised inside a running task that is being stopped, so that it can clean up.

    A `BaseException`, as `KeyboardInterrupt` is: a task's `except Exception` must not
    swallow it.
    """


class TaskTimeout(Stopped):
    """The task ran for longer than it may."""


class TaskOutOfMemory(Stopped):
    """The task and the processes it started hold more memory than they may."""


class TaskReleased(Stopped):
    """The runner is going away: the task is given back, at no attempt's cost."""


class TaskCancelled(Stopped):
    """A person has stopped the task: it is not tried again."""


def is_permanent(error: BaseException) -> bool:
    """Return whether what was raised says that the task must not be tried again."""
    return getattr(error, "permanent", False) is True


def traceback_text(error: BaseException) -> str:
    """Return the traceback of `error` as every database can store it.

    NUL characters (PostgreSQL refuses them) and lone surrogates (no encoding has
    them) are escaped; a text of more than `LONGEST_TEXT` characters loses its middle.
    """
    text = "".join(traceback.format_exception(error))
    text = text.replace("\x00", "\\x00")
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def last_line(text: str) -> str:
    """Return the last line of an error, which says what it was."""
    return text.strip().rpartition("\n")[2]
