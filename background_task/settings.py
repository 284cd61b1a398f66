"""The settings, under upstream's names; each is read when it is asked for.

Nothing is kept and nothing is checked here: `override_settings` works, and whoever
uses a value says what is wrong with it.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from datetime import timedelta, tzinfo
from typing import Any

from django.conf import settings

CENTURY = 36_525 * 86_400.0  # seconds: what is longer may end past the calendar


class AppSettings:
    """What the project's settings say, or the defaults."""

    @property
    def MAX_ATTEMPTS(self) -> int:
        """How many times a task is tried; `BACKGROUND_TASK_MAX_ATTEMPTS` wins."""
        attempts: int = _prefixed("MAX_ATTEMPTS", 25)
        return attempts

    @property
    def BACKGROUND_TASK_MAX_ATTEMPTS(self) -> int:
        """The same as `MAX_ATTEMPTS`."""
        return self.MAX_ATTEMPTS

    @property
    def MAX_RUN_TIME(self) -> float:
        """Seconds a task may run; `BACKGROUND_TASK_MAX_RUN_TIME` wins."""
        seconds: float = _prefixed("MAX_RUN_TIME", 3600)
        return seconds

    @property
    def BACKGROUND_TASK_MAX_RUN_TIME(self) -> float:
        """The same as `MAX_RUN_TIME`."""
        return self.MAX_RUN_TIME

    @property
    def lock_lifetime(self) -> timedelta:
        """How long a lock holds that is no runner's: `MAX_RUN_TIME`, or a century."""
        return timedelta(seconds=min(self.MAX_RUN_TIME, CENTURY))

    @property
    def BACKGROUND_TASK_RUN_ASYNC(self) -> bool:
        """Whether several tasks run at the same time; older than `WORKERS`."""
        return getattr(settings, "BACKGROUND_TASK_RUN_ASYNC", False)

    @property
    def BACKGROUND_TASK_ASYNC_THREADS(self) -> int:
        """How many tasks run at the same time under `BACKGROUND_TASK_RUN_ASYNC`."""
        return getattr(
            settings, "BACKGROUND_TASK_ASYNC_THREADS", multiprocessing.cpu_count()
        )

    @property
    def BACKGROUND_TASK_PRIORITY_ORDERING(self) -> str:
        """'' if it is set to "ASC" (as nice: the lowest number first), else '-'."""
        ordering = getattr(settings, "BACKGROUND_TASK_PRIORITY_ORDERING", "DESC")
        return "" if ordering == "ASC" else "-"

    @property
    def BACKOFF_MULTIPLIER(self) -> float:
        """The exponent of the back-off; django4-background-tasks named it so."""
        return getattr(settings, "BACKOFF_MULTIPLIER", 4)

    @property
    def BACKGROUND_TASK_WORKERS(self) -> int | None:
        """How many tasks run at the same time; None: see `workers`."""
        return getattr(settings, "BACKGROUND_TASK_WORKERS", None)

    @property
    def BACKGROUND_TASK_QUEUES(self) -> Sequence[str] | None:
        """The queues to serve, as `--queue` has them; None: every queue."""
        return getattr(settings, "BACKGROUND_TASK_QUEUES", None)

    @property
    def BACKGROUND_TASK_EXCLUDE_QUEUES(self) -> Sequence[str] | None:
        """The queues not to serve; None: none."""
        return getattr(settings, "BACKGROUND_TASK_EXCLUDE_QUEUES", None)

    @property
    def BACKGROUND_TASK_TASKS_PER_PROCESS(self) -> int:
        """How many tasks a process runs, one after the other, before it leaves."""
        return getattr(settings, "BACKGROUND_TASK_TASKS_PER_PROCESS", 1)

    @property
    def BACKGROUND_TASK_MEMORY_LIMIT(self) -> int | str | None:
        """What a task's processes may hold: bytes, or a text like "512M"; None: all."""
        return getattr(settings, "BACKGROUND_TASK_MEMORY_LIMIT", None)

    @property
    def BACKGROUND_TASK_GRACE(self) -> float:
        """Seconds between asking a task to stop and killing it."""
        return getattr(settings, "BACKGROUND_TASK_GRACE", 5.0)

    @property
    def BACKGROUND_TASK_DRAIN_TIMEOUT(self) -> float:
        """Seconds that running tasks get to finish when the runner is told to stop."""
        return getattr(settings, "BACKGROUND_TASK_DRAIN_TIMEOUT", 25.0)

    @property
    def BACKGROUND_TASK_START_TIMEOUT(self) -> float:
        """Seconds that a task's process gets to import the project and begin."""
        return getattr(settings, "BACKGROUND_TASK_START_TIMEOUT", 60.0)

    @property
    def BACKGROUND_TASK_LEASE(self) -> float:
        """Seconds for which a runner that is not heard of is trusted to be alive."""
        return getattr(settings, "BACKGROUND_TASK_LEASE", 30.0)

    @property
    def BACKGROUND_TASK_START_METHOD(self) -> str:
        """How a task's process begins: "template" (default on Linux) or "spawn"."""
        default = "template" if sys.platform == "linux" else "spawn"
        return getattr(settings, "BACKGROUND_TASK_START_METHOD", default)

    @property
    def BACKGROUND_TASK_NOTIFY(self) -> bool:
        """Whether enqueuing tells runners at once; PostgreSQL only, by NOTIFY."""
        return getattr(settings, "BACKGROUND_TASK_NOTIFY", True)

    @property
    def BACKGROUND_TASK_MAX_CRASHES(self) -> int | None:
        """How often a task's process may die of itself; None: as often as it fails."""
        return getattr(settings, "BACKGROUND_TASK_MAX_CRASHES", None)

    @property
    def BACKGROUND_TASK_REPEAT_TIMEZONE(self) -> tzinfo | str | None:
        """The zone whose clock repeats of whole days go by; None: they are seconds."""
        return getattr(settings, "BACKGROUND_TASK_REPEAT_TIMEZONE", None)

    @property
    def BACKGROUND_TASK_REPEAT_AFTER_FAILURE(self) -> bool:
        """Whether a task that repeats goes on after it has failed for good."""
        return getattr(settings, "BACKGROUND_TASK_REPEAT_AFTER_FAILURE", False)

    @property
    def BACKGROUND_TASK_KEEP_COMPLETED(self) -> float | dict[str, float | None] | None:
        """Days that completed tasks are kept, or {"succeeded": 7, ...}; None: all."""
        return getattr(settings, "BACKGROUND_TASK_KEEP_COMPLETED", None)

    @property
    def BACKGROUND_TASK_HEARTBEAT_FILE(self) -> str | None:
        """The file by which probes see that `process_tasks` is alive; None: no file."""
        return getattr(settings, "BACKGROUND_TASK_HEARTBEAT_FILE", None)

    @property
    def BACKGROUND_TASK_NICE(self) -> int:
        """What tasks add to their niceness, from 0 to 19."""
        return getattr(settings, "BACKGROUND_TASK_NICE", 0)

    @property
    def BACKGROUND_TASK_MEMORY_BUDGET(self) -> int | str | None:
        """What the memory limits of running tasks may add up to; "auto"; None: all."""
        return getattr(settings, "BACKGROUND_TASK_MEMORY_BUDGET", None)

    @property
    def BACKGROUND_TASK_OVERRIDES(self) -> dict[str, dict[str, Any]]:
        """By task name what stands over its decorator: {"max_run_time": 60, ...}."""
        return getattr(settings, "BACKGROUND_TASK_OVERRIDES", {})

    @property
    def workers(self) -> int:
        """How many tasks run at the same time, from the new setting or the old two."""
        if self.BACKGROUND_TASK_WORKERS is not None:
            return self.BACKGROUND_TASK_WORKERS
        if self.BACKGROUND_TASK_RUN_ASYNC:
            return self.BACKGROUND_TASK_ASYNC_THREADS
        return 1


def setting_name(name: str) -> str:
    """Return the name under which a setting is set: the prefixed one wins."""
    prefixed = f"BACKGROUND_TASK_{name}"
    return prefixed if hasattr(settings, prefixed) else name


def _prefixed(name: str, default: Any) -> Any:
    return getattr(settings, setting_name(name), default)


app_settings = AppSettings()
