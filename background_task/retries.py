"""When is a task tried again, and when is it given up?

Functions of their arguments and of the settings alone: no rows, no clock.
"""

import math
from collections.abc import Sequence
from datetime import timedelta

from .limits import SettingError, parse_seconds
from .settings import CENTURY, app_settings

# With a large exponent the moment would lie past the calendar's end.
LONGEST_BACKOFF = timedelta(seconds=CENTURY)


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
