"""What can go wrong, by name."""

from typing import Any


class BackgroundTaskError(Exception):
    """The base of this package's exceptions; `errors` may carry details."""

    def __init__(self, message: str = "", errors: Any = None) -> None:
        super().__init__(message)
        self.errors = errors


class InvalidTaskError(BackgroundTaskError):
    """Raised by a task that must not be tried again: it fails for good at once."""
