"""Durations, moments and names in templates; sparklines; the dashboard's place."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import django
from django import template
from django.contrib.admin.sites import all_sites
from django.template import Context
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from background_task import display, views
from background_task.dashboard.tries import Bar, Span

register = template.Library()
register.filter("duration", display.duration)
register.filter("size", display.size)
register.filter("memory", display.memory)
register.filter("absolute", display.absolute)
register.filter("breakable", display.breakable)


@register.filter
def age(moment: datetime | None) -> str | None:
    """Return for how long a moment has been over, in whole seconds."""
    if moment is None:
        return None
    seconds = max(0.0, (timezone.now() - moment).total_seconds())
    text = _("%d s") % seconds if seconds < 10 else display.duration(seconds) or ""
    return display.timed(moment, text)


@register.filter
def ago(moment: datetime) -> str:
    """Return how long ago it was."""
    return display.timed(moment, display.relative(moment, timezone.now()))


@register.filter
def short(name: str) -> str:
    """Return the function's own name of a task's."""
    return name.rpartition(".")[2]


@register.filter
def module(name: str) -> str:
    """Return what `short` leaves out, with its dot."""
    return name[: len(name) - len(short(name))]


@register.simple_tag(takes_context=True)
def dashboard_address(context: Context) -> str:
    """Return where the dashboard is; nothing for who may not see it, or has none."""
    request = getattr(context, "request", None)
    name = getattr(request, "current_app", None)  # the admin's pages have it
    site = next((site for site in all_sites if site.name == name), None)
    if request is None or not views.may_see(request, site):
        return ""
    try:
        return reverse("admin:background_task_dashboard", current_app=name)
    except NoReverseMatch:
        return ""


@register.simple_tag
def is_django_6_1() -> bool:
    """Return whether breadcrumbs are a list, and tools beside the titles."""
    return django.VERSION >= (6, 1)


_STEP, _HEIGHT = 8, 60  # of a bar with the gap after it; of the highest one


@dataclass(frozen=True, slots=True)
class Drawn:
    """A bar: where its two parts are in the picture, whose top is 0."""

    x: int
    succeeded: int  # heights
    failed: int
    is_known: bool
    title: str

    @property
    def y_succeeded(self) -> int:
        """Where the lower part begins, which stands on the line."""
        return _HEIGHT + 2 - self.succeeded

    @property
    def y_failed(self) -> int:
        """Where the upper part begins."""
        return self.y_succeeded - self.failed


@register.inclusion_tag("admin/background_task/dashboard_sparkline.html")
def sparkline(span: Span, label: str, begin: str) -> dict[str, Any]:
    """Draw what ended within a span of time, bar by bar, failures on top."""
    peak = max((bar.succeeded + bar.failed for bar in span.bars), default=0)
    return {
        "span": span,
        "label": label,
        "begin": begin,
        "peak": peak,
        "width": _STEP * len(span.bars),
        "bars": [_drawn(n, bar, peak) for n, bar in enumerate(span.bars)],
    }


def _drawn(number: int, bar: Bar, peak: int) -> Drawn:
    """Size a bar; what there is at all has some height."""

    def height(count: int) -> int:
        return max(2, _HEIGHT * count // peak) if count else 0

    ended = _("%(succeeded)d succeeded, %(failed)d failed")
    return Drawn(
        x=_STEP * number,
        succeeded=min(height(bar.succeeded), _HEIGHT - height(bar.failed)),
        failed=height(bar.failed),
        is_known=bar.is_known,
        title=ended % {"succeeded": bar.succeeded, "failed": bar.failed},
    )
