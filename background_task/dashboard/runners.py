"""Which runners are there, and what do they run?"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef
from django.utils import timezone

from background_task import display, leases
from background_task.models import Control, Runner, Task

from .counts import Count

ROWS = 100  # of what runs, and of runners, that are shown
_RUNNERS = 2_000  # that are read: all of them, unless something has gone wrong


@dataclass(frozen=True, slots=True)
class Seen:
    """A runner, as it told of itself last."""

    row: Runner
    is_alive: bool
    silent: float | None  # seconds since its lease was renewed; None: it does not say
    drained_by: str | None  # who asks it to

    @property
    def heard_of(self) -> datetime | None:
        """When its lease was renewed, by the clock of this host."""
        if self.silent is None:
            return None
        return timezone.now() - timedelta(seconds=self.silent)

    @property
    def busy(self) -> int:
        """How many tasks it has been running for a second."""
        return len(self.row.running or ())

    @property
    def claims(self) -> bool:
        """Whether it takes tasks."""
        return self.is_alive and not self.row.draining

    @property
    def queues(self) -> str | None:
        """Which queues it takes tasks of, in words; None: it does not say."""
        return display.served(self.row)

    def serves(self, queue: str | None) -> bool:
        """Return whether it takes tasks of this queue."""
        return self.claims and queue in self.row.served


@dataclass(frozen=True, slots=True)
class Running:
    """A try that has run for a second: see `Runner.running`."""

    task: int
    name: str
    runner: Seen
    pid: int
    elapsed: float  # seconds
    seconds: float | None  # the limit
    held: int | None  # bytes
    memory: int | None  # the limit
    progress: Task | None
    stopped_by: str | None

    @property
    def nearly(self) -> int | None:
        """From where on what it holds is near the limit."""
        return None if self.memory is None else self.memory * 9 // 10

    @property
    def percent(self) -> int | None:
        """How much of it is done, by what it says."""
        row = self.progress
        if row is None or row.progress_done is None or not row.progress_total:
            return None
        return max(0, min(100, 100 * row.progress_done // row.progress_total))


def ask_runners(asked: Iterable[Control]) -> list[Seen]:
    """Return the runners, those first that will be trusted for longest."""
    drained = {row.target: row.by for row in asked if row.verb == Control.Verb.DRAIN}
    rows = leases.with_trust(Runner.objects.order_by("-trusted_until"))
    return [
        Seen(
            row=row,
            is_alive=bool(row.is_alive),
            silent=leases.silent(row),
            drained_by=drained.get(row.pk),
        )
        for row in rows[:_RUNNERS]
    ]


def ask_running(
    runners: Iterable[Seen], asked: Iterable[Control]
) -> tuple[list[Running], int]:
    """Return what runs, the longest first, as far as it is shown; and how much does.

    Of one task what a living runner says.
    """
    told: dict[int, tuple[dict[str, Any], Seen]] = {}
    for runner in runners:  # the living ones are the first
        for entry in runner.row.running or ():
            told.setdefault(entry["task"], (entry, runner))
    shown = sorted(told.values(), key=lambda one: one[0]["began"])[:ROWS]
    tasks = Task.objects.only("progress_done", "progress_total", "progress_message")
    rows = tasks.in_bulk([entry["task"] for entry, _ in shown])
    stopped = {row.target: row.by for row in asked if row.verb == Control.Verb.STOP}
    now = time.time()
    running = [
        Running(
            task=entry["task"],
            name=entry["name"],
            runner=runner,
            pid=entry["pid"],
            elapsed=max(0.0, now - entry["began"]),
            seconds=entry["seconds"],
            held=entry["held"],
            memory=entry["memory"],
            progress=rows.get(entry["task"]),
            stopped_by=stopped.get(str(entry["task"])),
        )
        for entry, runner in shown
    ]
    return running, len(told)


def ask_strangers() -> Count:
    """Return how many tasks are held by what has no row: 1.2.8, or --in-process."""
    known = Runner.objects.filter(pk=OuterRef("locked_by"))
    return Count.of(Task.objects.exclude(locked_by=None).exclude(Exists(known)))
