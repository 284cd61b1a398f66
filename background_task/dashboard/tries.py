"""What do the newest tries of the last day say?"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from django.db.models.functions import Left, Right
from django.utils import timezone

from background_task.display import error_line
from background_task.models import Attempt

from .counts import Count, slug

TRIES = 5_000  # of the newest ones, within DAY: moments are dear to read
FAILURES = 500  # of these, of which the error is read
NAMES = 20  # of tasks, and of groups of failures

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_HOUR_BARS, _DAY_BARS = 60, 48
_NAMES_OF_FAILURE = 3
_ERROR_ENDS = 300  # characters at each end of an error that are read


@dataclass(frozen=True, slots=True)
class Bar:
    """What ended within one part of a span of time, or that it is not known."""

    succeeded: int = 0
    failed: int = 0
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """What ended within the last so much time."""

    ended: Count
    failed: Count
    bars: list[Bar]  # the oldest first


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The value that half of them, and that 95 of 100, do not exceed."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quantiles | None":
        if not values:
            return None
        known = sorted(values)
        return cls(*(known[ceil(len(known) * share) - 1] for share in (0.5, 0.95)))


@dataclass(slots=True)
class OfName:
    """The tries of one function's tasks."""

    name: str
    tries: int = 0
    failed: int = 0
    durations: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    @property
    def duration(self) -> Quantiles | None:
        """Seconds that they took."""
        return Quantiles.of(self.durations)

    @property
    def wait(self) -> Quantiles | None:
        """Seconds that they were due before they began."""
        return Quantiles.of(self.waits)

    @property
    def memory(self) -> Quantiles | None:
        """Bytes that they held at most."""
        return Quantiles.of(self.peaks)


@dataclass(slots=True)
class Failure:
    """Failures whose errors differ in numbers and names of things at most."""

    error: str
    outcome: str
    last: datetime
    example: int  # the newest one's Attempt
    tries: int = 0
    names: set[str] = field(default_factory=set)

    @property
    def label(self) -> Any:
        """What their outcome is called; one of a later version, as it is stored."""
        return dict(Attempt.Outcome.choices).get(self.outcome, self.outcome)

    @property
    def key(self) -> str:
        """What tells its row from others in a page."""
        return slug(f"{self.outcome} {self.error}")

    @property
    def name(self) -> str | None:
        """The tasks' name, if there is but one."""
        return next(iter(self.names)) if len(self.names) == 1 else None

    @property
    def shown(self) -> list[str]:
        """Some of the tasks' names."""
        return sorted(self.names)[:_NAMES_OF_FAILURE]

    @property
    def more(self) -> int:
        """How many names are not among them."""
        return len(self.names) - len(self.shown)


@dataclass(frozen=True, slots=True)
class Tries:
    """What the newest tries of the last day say."""

    since: datetime
    is_all: bool  # of the last day; else TRIES of them, since then
    hour: Span
    day: Span
    names: list[OfName]  # the most tried first
    more_names: int
    failures: list[Failure]  # the most frequent first
    more_failures: int


_NO_FAILURE = (Attempt.Outcome.SUCCEEDED, Attempt.Outcome.CANCELLED)


def ask_tries() -> Tries:
    """Ask the database for them."""
    now = timezone.now()
    newest = Attempt.objects.filter(ended_at__gt=now - DAY).order_by("-ended_at")
    columns = ("pk", "task_name", "outcome", "waited", "started_at", "ended_at")
    rows = list(newest.values_list(*columns, "peak_memory")[:TRIES])
    is_all = len(rows) < TRIES
    since = now - DAY if is_all else rows[-1][5]
    ended = [(at, outcome not in _NO_FAILURE) for _, _, outcome, _, _, at, _ in rows]
    names = sorted(_by_name(rows), key=lambda of: (-of.tries, of.name))
    failed = [pk for pk, _, outcome, *_ in rows if outcome not in _NO_FAILURE]
    failures = sorted(_failures(failed[:FAILURES]), key=lambda group: -group.tries)
    return Tries(
        since=since,
        is_all=is_all,
        hour=_span(ended, now, HOUR, _HOUR_BARS, since),
        day=_span(ended, now, DAY, _DAY_BARS, since),
        names=names[:NAMES],
        more_names=max(0, len(names) - NAMES),
        failures=failures[:NAMES],
        more_failures=max(0, len(failures) - NAMES),
    )


def _span(
    ended: Iterable[tuple[datetime, bool]],
    now: datetime,
    length: timedelta,
    bars: int,
    known_since: datetime,
) -> Span:
    """Count by equal parts of the time until now."""
    begin, step = now - length, length / bars
    counts = Counter(
        (min(bars - 1, (at - begin) // step), is_failure)
        for at, is_failure in ended
        if at >= begin
    )
    failed = sum(n for (_, is_failure), n in counts.items() if is_failure)
    is_all = known_since <= begin
    return Span(
        ended=Count(counts.total(), is_all),
        failed=Count(failed, is_all),
        bars=[
            Bar(
                succeeded=counts[number, False],
                failed=counts[number, True],
                is_known=begin + (number + 1) * step > known_since,
            )
            for number in range(bars)
        ],
    )


def _by_name(rows: Iterable[tuple[Any, ...]]) -> Iterable[OfName]:
    found: dict[str, OfName] = {}
    for _, name, outcome, waited, started_at, ended_at, peak in rows:
        of = found.setdefault(name, OfName(name))
        of.tries += 1
        of.failed += outcome not in _NO_FAILURE
        if started_at is not None:
            of.durations.append((ended_at - started_at).total_seconds())
        if waited is not None:
            of.waits.append(waited)
        if peak is not None:
            of.peaks.append(peak)
    return found.values()


def _failures(pks: Sequence[int]) -> Iterable[Failure]:
    """Group failures by what went wrong; of an error its two ends are read."""
    ends = {"head": Left("error", _ERROR_ENDS), "tail": Right("error", _ERROR_ENDS)}
    columns = ("pk", "task_name", "outcome", "ended_at", "head", "tail")
    rows = Attempt.objects.filter(pk__in=pks).order_by("-ended_at").annotate(**ends)
    found: dict[tuple[str, str], Failure] = {}
    for pk, name, outcome, at, head, tail in rows.values_list(*columns):
        error = normalised(error_line(head, tail))
        group = found.setdefault(
            (outcome, error), Failure(error, outcome, last=at, example=pk)
        )
        group.tries += 1
        group.names.add(name)
    return found.values()


_PARTICULAR = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"  # a UUID
    r"|\b0x[0-9a-f]+"  # an address
    r"|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"  # a digest
    r"|\d+(?:[.,:]\d+)*",
    re.IGNORECASE,
)


def normalised(error: str) -> str:
    """Return an error without what differs from one time to the next: "…" for it."""
    return _PARTICULAR.sub("…", error)[:_ERROR_ENDS]
