"""Which try does a log record tell of? Its attributes say, for JSON logs and Sentry."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import Task

_handle = logging.Logger.handle
_fields: Mapping[str, Any] = {}  # of the task that runs in this process


def fields(
    task: "Task", attempt: int, runner: str | None, outcome: str = ""
) -> dict[str, Any]:
    """Return the `extra` of a record about a try; the first `attempt` is 1.

    Never the task's arguments. `outcome` is the name of one, if the try has ended.
    """
    said: dict[str, Any] = {
        "task_id": task.pk,
        "task_name": task.task_name,
        "attempt": attempt,
        "queue": task.queue,
        "runner": runner,
    }
    return {**said, "outcome": outcome} if outcome else said


@contextmanager
def carrying(fields: Mapping[str, Any]) -> Iterator[None]:
    """Have the records of all loggers carry these attributes meanwhile.

    What a record says by an `extra` of its own, or by that of a library, stands.
    """
    global _fields
    former, _fields = _fields, fields
    if not former:
        # Not by a record factory: a record that has an attribute already makes
        # `extra` with the same name a KeyError, and `task_id` is a likely one.
        logging.Logger.handle = _with_fields  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        _fields = former
        ours = logging.Logger.handle is _with_fields
        if not former and ours:  # else another has wrapped it, and needs it
            logging.Logger.handle = _handle  # type: ignore[method-assign]


def _with_fields(logger: logging.Logger, record: logging.LogRecord) -> None:
    for name, value in _fields.items():
        record.__dict__.setdefault(name, value)
    _handle(logger, record)
