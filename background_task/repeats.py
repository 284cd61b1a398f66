"""When does a task that repeats run next, and by which clock?

Functions of their arguments and of the settings alone: no rows, no time of day.
"""

import zoneinfo
from bisect import bisect_left
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from django.utils import timezone

from .limits import SettingError
from .names import meant
from .settings import app_settings

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class Plan(NamedTuple):
    """When a repetition runs, and from when the one after it is counted."""

    run_at: datetime
    counted_from: datetime | None = None  # None: from `run_at`


def repeat_zone() -> tzinfo | None:
    """Return the zone whose clock repeats of whole days keep to, if there is one.

    Raises SettingError for what is no time zone.
    """
    zone: Any = app_settings.BACKGROUND_TASK_REPEAT_TIMEZONE
    of_pytz = hasattr(zone, "localize")  # its offsets are wrong in what follows
    if zone is None or (isinstance(zone, tzinfo) and not of_pytz):
        return zone
    try:
        return zoneinfo.ZoneInfo(zone)
    except (KeyError, ValueError, TypeError, OSError):  # OSError: it is a directory
        raise SettingError(
            f"BACKGROUND_TASK_REPEAT_TIMEZONE is {zone!r}: it must be the name of a "
            f'time zone, such as "Europe/Berlin", or a tzinfo{_meant(zone)}'
        ) from None


def _meant(zone: Any) -> str:
    known = zoneinfo.available_timezones()
    if not known:
        return ' (none is known here: run "pip install tzdata")'
    near = meant(zone, known)
    return f" (did you mean {near}?)" if near else ""


def next_repetition(
    run_at: datetime,
    repeat_seconds: int,
    now: datetime,
    repeat_until: datetime | None,
    counted_from: datetime | None = None,
) -> Plan | None:
    """Return the first planned moment that is not past, or None at the chain's end.

    Planned moments are that for which this occurrence was planned, plus multiples of
    `repeat_seconds`; missed ones are skipped. It was planned for `run_at`, or for
    `counted_from`, if that is given: then `run_at` is where it was moved to. If it was
    to an earlier moment, the planned one still comes. The chain ends when
    `repeat_until` is reached, or would be passed by the next moment.

    With BACKGROUND_TASK_REPEAT_TIMEZONE, whole days are days of its calendar: the clock
    shows the same each time.
    """
    if repeat_until is not None and repeat_until <= now:
        return None
    base = run_at if counted_from is None else counted_from
    least = 0 if base > run_at else 1  # periods
    zone = _clock_of(repeat_seconds)
    try:
        period = timedelta(seconds=repeat_seconds)
        if zone is None:
            # The smallest k for which base + k * period is not past: rounded up.
            k = -((base - max(run_at, now)) // period)
            plan = Plan(base + max(least, k) * period)
        else:
            plan = _plan_by_clock(base, least, period, run_at, now, zone)
    except OverflowError:  # past the calendar's end: as good as never
        return None
    if repeat_until is not None and plan.run_at > repeat_until:
        return None
    return plan


def keeps_to_clock(repeat_seconds: int) -> bool:
    """Does such a repeat keep to the clock of a zone, whatever retries there are?"""
    return _clock_of(repeat_seconds) is not None


def _clock_of(repeat_seconds: int) -> tzinfo | None:
    zone = repeat_zone()
    return None if repeat_seconds % _DAY.total_seconds() else zone


def _plan_by_clock(
    base: datetime,
    least: int,
    period: timedelta,
    run_at: datetime,
    now: datetime,
    zone: tzinfo,
) -> Plan:
    """Plan the first moment after `run_at`, and not past, that the clock is right.

    If the clock skips it, the one after it is counted from `base` again: only there is
    it still seen what the clock should have shown.
    """
    former = _utc(run_at)
    latest = max(former, _utc(now))
    first = _shown(base, zone)
    wanted = first + max(least, (_shown(latest, zone) - first) // period) * period
    while (moment := _moment(wanted, zone)) < latest or moment == former:
        wanted += period
    is_right = _shown(moment, zone) == wanted
    if timezone.is_naive(base):
        moment = timezone.make_naive(moment, timezone.get_default_timezone())
    return Plan(moment, None if is_right else base)


def _utc(moment: datetime) -> datetime:
    """Return it in UTC; without USE_TZ moments are those of TIME_ZONE."""
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment, timezone.get_default_timezone())
    return moment.astimezone(UTC)


def _shown(moment: datetime, zone: tzinfo) -> datetime:
    """Return what the zone's calendar and clock show at this moment."""
    return _utc(moment).astimezone(zone).replace(tzinfo=None)


def _moment(wanted: datetime, zone: tzinfo) -> datetime:
    """Return when the zone's clock first shows this; if it skips it, when it goes on.

    In UTC.
    """
    moment = wanted.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _shown(moment, zone) == wanted:
        return moment
    # It is skipped. With fold=0 that was a moment after the change, as if the clock had
    # not been set; with fold=1 it is one before. Changes are made at whole seconds.
    before = wanted.replace(tzinfo=zone, fold=1, microsecond=0).astimezone(UTC)
    seconds = range((moment - before) // _SECOND + 1)
    return before + _SECOND * bisect_left(
        seconds, True, key=lambda n: _shown(before + n * _SECOND, zone) > wanted
    )
