"""How do people read durations, moments, sizes, names and errors?"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import formats, timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.translation import gettext as _

from . import control

if TYPE_CHECKING:
    from .models import Runner

_LONG_LINES, _LONG_TEXT = 25, 2000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float | None) -> str | None:
    """Return seconds in the two largest units that say something; None stays None."""
    if seconds is None:
        return None
    if seconds < 1:
        return _("%d ms") % round(max(seconds, 0) * 1000)
    if seconds < 10:
        return _("%s s") % formats.number_format(round(seconds, 1), 1)
    whole = round(seconds)
    if whole < _MINUTE:
        return _("%d s") % whole
    if whole < _HOUR:
        return _both(_("%d min"), whole // _MINUTE, _("%d s"), whole % _MINUTE)
    if whole < _DAY:
        minutes = whole % _HOUR // _MINUTE
        return _both(_("%d h"), whole // _HOUR, _("%d min"), minutes)
    return _both(_("%d d"), whole // _DAY, _("%d h"), whole % _DAY // _HOUR)


def _both(larger: str, many: int, smaller: str, few: int) -> str:
    return f"{larger % many} {smaller % few}" if few else larger % many


def size(amount: int | None) -> str | None:
    """Return bytes in the unit that has few digits, powers of 1024; None stays None."""
    if amount is None:
        return None
    value, units = float(amount), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    digits = 0 if units[0] == "B" or value >= 100 else 1
    # `number_format` cuts, and does not round.
    return f"{formats.number_format(round(value, digits), digits)} {units[0]}"


def memory(amount: int | None) -> str | None:
    """Return what a task holds, as `size` does.

    Less than a MiB is not told more exactly: a task shares more than that with what it
    was forked from, and what is its own is a difference.
    """
    if amount is not None and amount < 1024**2:
        return _("under 1 MiB")
    return size(amount)


def relative(moment: datetime, now: datetime) -> str:
    """Return how long ago, or in how long."""
    seconds = (moment - now).total_seconds()
    if abs(seconds) < 1:
        return _("now")
    if abs(seconds) < 10:
        seconds = round(seconds)
        how_long = _("%d s") % abs(seconds)
    else:
        how_long = duration(abs(seconds)) or ""
    return _("in %s") % how_long if seconds > 0 else _("%s ago") % how_long


def absolute(moment: datetime) -> str:
    """Return the moment in the current time zone, with seconds and the zone."""
    local = in_zone(moment)
    text = f"{local:%Y-%m-%d %H:%M:%S}"
    return f"{text} {local:%Z}" if local.tzinfo else text


def in_zone(moment: datetime) -> datetime:
    """Return the moment in the current time zone, if it is in one.

    At the calendar's ends, such as of a task that is never to run, it stays in UTC: the
    zone would have it beyond them.
    """
    return _in_zone(moment) or moment


def nearest_in_zone(moment: datetime) -> datetime:
    """Return the moment, or the nearest one that the current time zone can tell."""
    if _in_zone(moment) is not None:
        return moment
    end = datetime.min if moment.year == datetime.min.year else datetime.max
    return timezone.make_aware(end.replace(microsecond=0))


def _in_zone(moment: datetime) -> datetime | None:
    try:
        return timezone.localtime(moment) if timezone.is_aware(moment) else moment
    except OverflowError:
        return None


def when(moment: datetime | None, now: datetime | None = None) -> str | None:
    """Return both as HTML, the relative one first; None stays None."""
    if moment is None:
        return None
    return format_html(
        '<time class="bgtask-when" datetime="{}" title="{}">'
        "{} <small>{}</small></time>",
        moment.isoformat(),
        absolute(moment),
        relative(moment, now or timezone.now()),
        absolute(moment),
    )


def timed(moment: datetime, text: str) -> str:
    """Return a text as HTML that tells the moment and its zone when pointed at."""
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        absolute(moment),
        text,
    )


def breakable(name: Any) -> str:
    """Return a name as HTML that may be broken after dots and underscores."""
    parts = ((part,) for part in re.split(r"(?<=[._])", str(name)))
    return format_html_join(mark_safe("<wbr>"), "{}", parts)


def served(runner: "Runner") -> str | None:
    """Return which queues a runner takes tasks of; None: it is too old to say."""
    if runner.queues is None:
        return None
    queues = runner.served
    excluded = sorted(queue for queue in queues.excluded if queue is not None)
    if queues.queues:
        return ", ".join(sorted(queues.queues.difference(excluded))) or _("none")
    return _("all but %s") % ", ".join(excluded) if excluded else _("all")


def called(queue: str | None) -> str:
    """Return how a sentence calls the tasks of a queue, or of none."""
    return _("tasks in no queue") if queue is None else place(queue)


def place(queue: str | None) -> str:
    """Return what a sentence says that a task is in."""
    return _("no queue") if queue is None else _("queue %s") % queue


def target(paused: str) -> str:
    """Return how a sentence calls what `control` has paused, or may."""
    if paused == control.EVERY_QUEUE:
        return _("everything")
    return called(control.queue_of(paused))


def error_line(head: str, tail: str | None = None) -> str:
    """Return the line of an error that says what it was.

    Of a traceback the last one, of other texts the first one. A long error may be given
    by its two ends.
    """
    is_traceback = head.lstrip().startswith("Traceback")
    lines = (head if tail is None or not is_traceback else tail).strip().splitlines()
    return lines[-1 if is_traceback else 0].strip() if lines else ""


@dataclass(frozen=True, slots=True)
class LongText:
    """A text as it is printed; a long one is shown when it is asked for."""

    title: Any
    text: str

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())

    @property
    def is_long(self) -> bool:
        """Would it push what follows out of sight?"""
        return self.lines > _LONG_LINES or len(self.text) > _LONG_TEXT
