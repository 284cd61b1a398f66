"""When is a task tried again, when does it repeat, when is it given up?

Functions of their arguments and of the settings alone: no rows, no clock.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from .limits import SettingError, parse_seconds
from .settings import app_settings

# A century: with a large exponent the moment would lie past the calendar's end.
LONGEST_BACKOFF = timedelta(days=36_525)


def backoff(attempts: int) -> timedelta:
    """Return how long to wait after so many failed tries.

    Upstream's rule, `attempts ** 4 + 5` seconds: 6, 21, 86, 261 s ... The exponent is
    the setting `BACKOFF_MULTIPLIER`.
    """
    exponent, longest = app_settings.BACKOFF_MULTIPLIER, LONGEST_BACKOFF.total_seconds()
    # By its logarithm first: the power itself may be too large for any number.
    if attempts > 1 and exponent >= math.log(longest, attempts):
        return LONGEST_BACKOFF
    seconds = int(attempts**exponent) if attempts > 0 else 0
    return timedelta(seconds=min(seconds + 5, longest))


def parse_waits(value: object, source: str) -> tuple[float, ...]:
    """Return seconds to wait after the first failed try, the second, ...

    Of a number or timedelta, for every try, or of a list of them, the last of which
    goes on. Raises SettingError, naming `source`.
    """
    said = list(value) if isinstance(value, list | tuple) else [value]
    if not said:
        raise SettingError(f"{source} is {value!r}: it must not be empty")
    longest = LONGEST_BACKOFF.total_seconds()
    return tuple(min(parse_seconds(one, source, least=0), longest) for one in said)


def wait_of(waits: Sequence[float], attempts: int) -> timedelta:
    """Return how long to wait after so many failed tries, at least one."""
    return timedelta(seconds=waits[min(max(attempts, 1), len(waits)) - 1])


def exhausted(attempts: int, max_attempts: int) -> bool:
    """Return whether a task that was tried so often is given up."""
    return attempts >= max_attempts


def next_occurrence(
    run_at: datetime,
    repeat_seconds: int,
    now: datetime,
    repeat_until: datetime | None,
) -> datetime | None:
    """Return the first planned moment that is not past, or None at the chain's end.

    Planned moments are `run_at`, the moment this occurrence was planned for, plus
    multiples of `repeat_seconds`; missed ones are skipped. The chain ends when
    `repeat_until` is reached, or would be passed by the next moment.
    """
    if repeat_until is not None and repeat_until <= now:
        return None
    try:
        period = timedelta(seconds=repeat_seconds)
        # The smallest k for which run_at + k * period >= now: a division rounded up.
        planned = run_at + max(1, -((run_at - now) // period)) * period
    except OverflowError:  # past the calendar's end: as good as never
        return None
    if repeat_until is not None and planned > repeat_until:
        return None
    return planned
