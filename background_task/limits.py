"""Which limits hold for a task, and which values can be limits at all?"""

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_LEAST_MEMORY = 1024**2
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)


class SettingError(ValueError):
    """A setting, option or argument that cannot be; the text says what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRules:
    """Which limit holds for a task: the most particular one, under the ceiling.

    Setting < decorator < `BACKGROUND_TASK_OVERRIDES[name]`; then the command line's
    value is the ceiling for every task, and the limit of one that has none.
    """

    seconds: float | None
    memory: int | None
    memory_ceiling: int | None
    grace: float

    def limits(
        self, decorator: dict[str, Any], override: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the fields of a task's `Limits` in the supervisor.

        Both arguments may name max_run_time and memory_limit.

        Raises SettingError for a value that cannot be.
        """
        seconds, seconds_name = self.seconds, "MAX_RUN_TIME"
        memory, memory_name = self.memory, "BACKGROUND_TASK_MEMORY_LIMIT"
        for layer, source in (
            (decorator, "{} of @background"),
            (override, "{} of BACKGROUND_TASK_OVERRIDES"),
        ):
            if (value := layer.get("max_run_time")) is not None:
                seconds_name = source.format("max_run_time")
                seconds = parse_seconds(value, seconds_name)
            if (value := layer.get("memory_limit")) is not None:
                memory_name = source.format("memory_limit")
                memory = parse_memory(value, memory_name)
        ceiling = self.memory_ceiling
        if ceiling is not None and (memory is None or memory > ceiling):
            memory, memory_name = ceiling, "--memory-limit"
        return {
            "seconds": seconds,
            "seconds_name": seconds_name,
            "memory": memory,
            "memory_name": memory_name,
            "grace": self.grace,
        }


def check_decorator(name: str, limits: dict[str, Any]) -> None:
    """Raise SettingError for a limit that `@background` of this name can't have."""
    rules = LimitRules(seconds=None, memory=None, memory_ceiling=None, grace=0.0)
    try:
        rules.limits(limits, {})
    except SettingError as error:
        raise SettingError(f"Task {name}: {error}") from None


def parse_memory(value: object, source: str) -> int:
    """Return bytes: of a whole number, or of a text such as "512M" or "1.5G".

    The units are powers of 1024. Raises SettingError, naming `source`.
    """
    match = _MEMORY.fullmatch(str(value).strip())
    amount = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if isinstance(value, bool) or amount < _LEAST_MEMORY:
        raise SettingError(
            f"{source} is {value!r}: it must be a positive number of bytes, or a text "
            'such as "512M" or "2G" (K, M, G or T), and no less than 1M'
        )
    return int(amount)


def parse_seconds(value: object, source: str, *, least: float | None = None) -> float:
    """Return seconds: of a number, of its text, or of a timedelta.

    It must be positive, or `least` or more. Raises SettingError, naming `source`.
    """
    try:
        seconds = (
            value.total_seconds() if isinstance(value, timedelta) else float(value)  # type: ignore[arg-type]
        )
    except (TypeError, ValueError):
        seconds = math.nan
    enough = seconds > 0 if least is None else seconds >= least
    if isinstance(value, bool) or not math.isfinite(seconds) or not enough:
        bound = ", more than 0" if least is None else f", {least:g} or more"
        bound = "" if least == -math.inf else bound
        raise SettingError(
            f"{source} is {value!r}: it must be a number of seconds{bound}"
        )
    return seconds


def parse_count(value: object, source: str) -> int:
    """Return a whole number of 1 or more. Raises SettingError, naming `source`."""
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if isinstance(value, bool) or count < 1:
        raise SettingError(
            f"{source} is {value!r}: it must be a whole number, 1 or more"
        )
    return count
