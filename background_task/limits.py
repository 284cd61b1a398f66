"""Which limits hold for a task, and which values can be limits at all?"""

import math
import re
from collections.abc import Mapping
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

    Setting < decorator < call < `BACKGROUND_TASK_OVERRIDES[name]`; then the command
    line's value is the ceiling for every task, and the limit of one that has none.
    Seconds and bytes; None: no limit.
    """

    seconds: float | None
    memory: int | None
    memory_ceiling: int | None
    grace: float
    seconds_ceiling: float | None = None
    nice: int = 0

    def limits(
        self,
        decorator: Mapping[str, Any],
        override: Mapping[str, Any],
        call: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a task's `Limits` in the supervisor.

        Each argument may name what is in `LIMITS`. Raises SettingError for a value
        that cannot be.
        """
        layers = _Layers(
            ("{} of @background", decorator),
            ("{} of the call", call or {}),
            ("{} of BACKGROUND_TASK_OVERRIDES", override),
        )
        seconds = layers.last("max_run_time", self.seconds, "MAX_RUN_TIME")
        memory = layers.last(
            "memory_limit", self.memory, "BACKGROUND_TASK_MEMORY_LIMIT"
        )
        stall, stall_name = layers.last("stall_timeout", None, "stall_timeout")
        seconds, seconds_name = _under(seconds, self.seconds_ceiling, "--max-run-time")
        memory, memory_name = _under(memory, self.memory_ceiling, "--memory-limit")
        return {
            "seconds": seconds,
            "seconds_name": seconds_name,
            "stall": stall,
            "stall_name": stall_name,
            "memory": memory,
            "memory_name": memory_name,
            "hard_memory": layers.last("hard_memory", False)[0],
            "timeout_is_final": layers.last("on_timeout", False)[0],
            "memory_is_final": layers.last("on_memory", False)[0],
            "grace": self.grace,
            "nice": self.nice,
        }


class _Layers:
    """What is said of one task, from the most general to the most particular."""

    def __init__(self, *layers: tuple[str, Mapping[str, Any]]) -> None:
        self._layers = layers

    def last(self, name: str, value: Any, source: str = "") -> tuple[Any, str]:
        """Return the last that is said under a name, parsed, and where; all of it is.

        What is None is not said. `value` and `source` are what holds otherwise.
        """
        parse: Any = _PARSERS[name]
        for where, layer in self._layers:
            if (said := layer.get(name)) is not None:
                source = where.format(name)
                value = parse(said, source)
        return value, source


def _under(limit: tuple[Any, str], ceiling: Any, name: str) -> tuple[Any, str]:
    """Return the limit, or the ceiling if that is lower or there is no limit."""
    value, _ = limit
    if ceiling is not None and (value is None or value > ceiling):
        return ceiling, name
    return limit


def check(limits: Mapping[str, Any], source: str) -> None:
    """Raise SettingError for a limit that cannot be; `source` has a {} for its name."""
    layers = _Layers((source, limits))
    for name in LIMITS:
        layers.last(name, None)


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


def parse_count(
    value: object, source: str, *, least: int = 1, most: int | None = None
) -> int:
    """Return a whole number from `least` to `most`. Raises SettingError by `source`."""
    try:
        count = int(str(value))
    except ValueError:
        count = least - 1
    if isinstance(value, bool) or count < least or (most is not None and count > most):
        bound = f"{least} or more" if most is None else f"{least} to {most}"
        raise SettingError(f"{source} is {value!r}: it must be a whole number, {bound}")
    return count


def parse_flag(value: object, source: str) -> bool:
    """Return True or False, or raise SettingError, naming `source`."""
    if not isinstance(value, bool):
        raise SettingError(f"{source} is {value!r}: it must be True or False")
    return value


def parse_fate(value: object, source: str) -> bool:
    """Return whether "fail" is said and not "retry". Raises SettingError otherwise."""
    if value not in ("retry", "fail"):
        raise SettingError(f'{source} is {value!r}: it must be "retry" or "fail"')
    return value == "fail"


_PARSERS = {
    "max_run_time": parse_seconds,
    "stall_timeout": parse_seconds,
    "memory_limit": parse_memory,
    "hard_memory": parse_flag,
    "on_timeout": parse_fate,
    "on_memory": parse_fate,
}

# What a decorator and BACKGROUND_TASK_OVERRIDES may say of how a try is run.
LIMITS = tuple(_PARSERS)
