"""What does a task's decorator say of its tries, and who knows of it by name?

The bookkeeper knows no functions: it is told what the decorators say.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from . import limits, retries
from .settings import app_settings

RETRIES = "max_attempts", "backoff"
OVERRIDABLE = frozenset({*limits.LIMITS, *RETRIES})

_SAID: dict[str, Mapping[str, Any]] = {}  # by task name


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What `@background` says of a task's tries, as it was given; None: not said.

    `max_run_time`, `stall_timeout`: seconds or a timedelta; `memory_limit`: bytes or a
    text like "512M"; `on_timeout`, `on_memory`: "retry" or "fail"; `backoff`: the
    seconds after each failed try, one for all or a list, the last of which goes on.
    """

    max_run_time: float | timedelta | None = None
    stall_timeout: float | timedelta | None = None
    memory_limit: int | str | None = None
    hard_memory: bool | None = None
    on_timeout: str | None = None
    on_memory: str | None = None
    max_attempts: int | None = None
    backoff: Any = None
    dont_retry_on: tuple[type[BaseException], ...] = ()

    def said(self) -> dict[str, Any]:
        """Return it as plain data, but for the exceptions, which only the task meets.

        Raises SettingError for what cannot be.
        """
        said = {
            name: value for name, value in asdict(self).items() if value is not None
        }
        said.pop("dont_retry_on")
        for name in ("max_run_time", "stall_timeout"):
            if name in said:
                source = f"{name} of @background"
                said[name] = limits.parse_seconds(said[name], source)
        check(said, "{} of @background")
        if "backoff" in said:
            said["backoff"] = list(retries.parse_waits(said["backoff"], "backoff"))
        return said


def check(said: Mapping[str, Any], source: str) -> None:
    """Raise SettingError for what cannot be said of a task; `source` has a {}."""
    limits.check(said, source)
    if (most := said.get("max_attempts")) is not None:
        limits.parse_count(most, source.format("max_attempts"))
    if (waits := said.get("backoff")) is not None:
        retries.parse_waits(waits, source.format("backoff"))


def declare(name: str, said: Mapping[str, Any]) -> None:
    """Have it known in this process what the decorator of this name says."""
    _SAID[name] = said


def max_attempts(name: str) -> int:
    """Return how often a task is tried: setting < decorator < override."""
    most = _last(name, "max_attempts")
    return app_settings.BACKGROUND_TASK_MAX_ATTEMPTS if most is None else int(most)


def wait_after(name: str, attempts: int) -> timedelta:
    """Return how long a task of this name waits after so many failed tries."""
    waits = _last(name, "backoff")
    if waits is None:
        return retries.backoff(attempts)
    return retries.wait_of(retries.parse_waits(waits, "backoff"), attempts)


def _last(name: str, key: str) -> Any:
    """Return what is said last, of the decorator and BACKGROUND_TASK_OVERRIDES."""
    override = app_settings.BACKGROUND_TASK_OVERRIDES.get(name, {})
    value = override.get(key)
    return _SAID.get(name, {}).get(key) if value is None else value
