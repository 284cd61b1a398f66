"""The admin: what waits, what ended, who is running, and what may be done about it."""

from .actions import (
    cancel,
    dec_priority,
    drain,
    inc_priority,
    retry,
    run_now,
    stop,
)
from .attempt import AttemptAdmin
from .completed import CompletedTaskAdmin
from .runner import RunnerAdmin
from .task import TaskAdmin

__all__ = [
    "AttemptAdmin",
    "CompletedTaskAdmin",
    "RunnerAdmin",
    "TaskAdmin",
    "cancel",
    "dec_priority",
    "drain",
    "inc_priority",
    "retry",
    "run_now",
    "stop",
]
