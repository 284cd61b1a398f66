"""How was the runner asked to work? Resolved once, checked once, then frozen."""

import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .job import Limits

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_LEAST_MEMORY = 1024**2
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)


# How many tasks may be claimed ahead for each worker, while they are short. A process
# that is reused has ended eight before the next eight are there.
CLAIMED_AHEAD, CLAIMED_AHEAD_FOR_REUSE = 8, 32

# Of what sends signals about recorded tries: the time is for each of them.
ANNOUNCER = Limits(seconds=60.0, seconds_name="the limit of signal receivers")


class OptionError(ValueError):
    """An option or a setting that cannot be; the text names it and says what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the supervisor goes by; all times in seconds."""

    workers: int = 1
    ahead: int = CLAIMED_AHEAD  # 0: claim for a free worker only
    tasks_per_process: int = 1
    duration: float = 0.0  # 0 or less: for ever
    until_empty: bool = False
    drain_timeout: float = 25.0
    grace: float = 5.0
    start_timeout: float = 60.0
    lease: float = 30.0
    announcer: Limits = field(default_factory=lambda: ANNOUNCER)


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

    def limits(self, decorator: dict[str, Any], override: dict[str, Any]) -> Limits:
        """Return a task's limits; both arguments may name max_run_time, memory_limit.

        Raises OptionError for a value that cannot be.
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
        return Limits(
            seconds=seconds,
            seconds_name=seconds_name,
            memory=memory,
            memory_name=memory_name,
            grace=self.grace,
        )


def parse_memory(value: object, source: str) -> int:
    """Return bytes: of a whole number, or of a text such as "512M" or "1.5G".

    The units are powers of 1024. Raises OptionError, naming `source`.
    """
    match = _MEMORY.fullmatch(str(value).strip())
    amount = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if isinstance(value, bool) or amount < _LEAST_MEMORY:
        raise OptionError(
            f"{source} is {value!r}: it must be a positive number of bytes, or a text "
            'such as "512M" or "2G" (K, M, G or T), and no less than 1M'
        )
    return int(amount)


def parse_seconds(value: object, source: str, *, least: float | None = None) -> float:
    """Return seconds: of a number, of its text, or of a timedelta.

    It must be positive, or `least` or more. Raises OptionError, naming `source`.
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
        raise OptionError(
            f"{source} is {value!r}: it must be a number of seconds{bound}"
        )
    return seconds


def parse_count(value: object, source: str) -> int:
    """Return a whole number of 1 or more. Raises OptionError, naming `source`."""
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if isinstance(value, bool) or count < 1:
        raise OptionError(
            f"{source} is {value!r}: it must be a whole number, 1 or more"
        )
    return count
