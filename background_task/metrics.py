"""What does the monitor hand out as metrics, for Prometheus and what scales by it?

Of the runner what it has been told; of the queue what it asks the database, when it is
asked itself, and seldom enough. An outage hides the queue's figures and no others.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections, router
from django.db.models import Count, Min
from django.utils import timezone

from . import execution, waiting
from .indexes import WAITING

logger = logging.getLogger("background_task.tasks")

Answer = tuple[int, str, bytes]  # the status, the type of the content, the content

MISSING = "Metrics need prometheus-client: pip install prometheus-client"
_LONGEST_QUERY = 5.0  # seconds
_KEPT_FOR = 5.0  # seconds at least that what the database said is not asked again
_SHARE = 0.05  # of the time, at the most, is spent on asking
_PATIENCE = 2.0  # seconds that an answer waits for the database
_MOST_QUEUES = 100  # that have figures of their own
_OTHERS = "(others)"
_MIB = 1024**2

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_BYTES = tuple(16 * _MIB * 2**power for power in range(12))  # 16 MiB to 32 GiB


class NoMetrics:
    """Where prometheus-client is not installed."""

    def take(self, tick: Mapping[str, Any]) -> None:
        """Forget it."""

    def answer(self) -> Answer:
        return 501, "text/plain; charset=utf-8", f"{MISSING}\n".encode()


def metrics(environment: dict[str, Any]) -> "Metrics | NoMetrics":
    """Return what makes metrics of a runner on the databases of `environment`."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        return NoMetrics()
    execution.set_up(environment)
    return Metrics()


class Metrics:
    """See `supervisor/monitor.py` for who calls it."""

    def __init__(self) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Histogram,
            disable_created_metrics,
        )

        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"background_task_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: Iterable[float], *labels: str
        ) -> Histogram:
            name = f"background_task_{name}"
            return Histogram(
                name, text, labels, buckets=tuple(buckets), registry=registry
            )

        self._outcomes = counter(
            "outcomes", "Tries that were recorded", "task", "queue", "outcome"
        )
        self._durations = histogram(
            "duration_seconds", "What tries took", _SECONDS, "task"
        )
        self._waits = histogram(
            "queue_wait_seconds", "From due to begun", _SECONDS, "queue"
        )
        self._peaks = histogram(
            "peak_memory_bytes", "The most that tries have held", _BYTES, "task"
        )
        self._turns = {
            "claim": histogram("claim_seconds", "What claims took", _SHORT),
            "record": histogram("record_seconds", "What writing ends took", _SHORT),
        }
        self._unavailable = counter(
            "claim_errors", "Turns of the bookkeeper that found no database"
        )
        self._rescued = counter(
            "leases_reclaimed", "Tries taken over from dead runners"
        )
        self._lost = counter("monitor_lost", "What the monitor could not be told")
        self._queues = _Names(_MOST_QUEUES)
        self._tick: Mapping[str, Any] = {}
        self._polled_at: float | None = None
        self._depths = Depths()
        registry.register(self)  # for `collect`

    def take(self, tick: Mapping[str, Any]) -> None:
        self._tick = tick
        self._lost.inc(tick["lost"])
        for note in tick["notes"]:
            self._take_note(note)

    def _take_note(self, note: Mapping[str, Any]) -> None:
        match note:
            case {"kind": "ended"}:
                self._take_end(note)
            case {"kind": "turn"}:
                self._polled_at = note["at"]
                for name in self._turns.keys() & note.keys():
                    self._turns[name].observe(note[name])
            case {"kind": "rescued", "tries": int(tries)}:
                self._rescued.inc(tries)
            case {"kind": "unavailable"}:
                self._unavailable.inc()

    def _take_end(self, end: Mapping[str, Any]) -> None:
        task, queue = end["task"], self._queues.bounded(end["queue"])
        self._outcomes.labels(task, queue, end["outcome"]).inc()
        if end["seconds"] is not None:
            self._durations.labels(task).observe(end["seconds"])
        if end["waited"] is not None:
            self._waits.labels(queue).observe(max(0.0, end["waited"]))
        if end["peak"] is not None:
            self._peaks.labels(task).observe(end["peak"])

    def answer(self) -> Answer:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        self._depths.refresh(_PATIENCE)
        return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def collect(self) -> Iterable[Any]:
        """Yield what is so now. Called by `generate_latest`."""
        from prometheus_client.core import GaugeMetricFamily

        def gauge(
            name: str, text: str, values: Mapping[str, float], label: str = ""
        ) -> GaugeMetricFamily:
            family = GaugeMetricFamily(
                f"background_task_{name}", text, labels=[label] if label else []
            )
            for value_of, value in values.items():
                family.add_metric([value_of] if label else [], value)
            return family

        tick, depths = self._tick, self._depths.known()
        if tick:
            running = self._by_queue(tick["running"])
            busy = sum(running.values())
            slots = {"busy": busy, "free": max(0, tick["workers"] - busy)}
            ready = {"": float(not tick["why_not"])}
            yield gauge("ready", "Does the runner claim tasks?", ready)
            yield gauge("running", "Tries that run here", running, "queue")
            yield gauge("slots", "Workers, busy and free", slots, "state")
            yield gauge("held", "Tries claimed, not yet recorded", {"": tick["held"]})
            if (age := tick["lease_age"]) is not None:
                text = "Since the lease was renewed last"
                yield gauge("lease_age_seconds", text, {"": age})
        if self._polled_at is not None:
            text = "When the bookkeeper has reached the queue last"
            yield gauge("last_poll_timestamp_seconds", text, {"": self._polled_at})
        is_up = {"": float(depths is not None)}
        yield gauge("database_up", "Does the database say what waits?", is_up)
        if depths is not None:
            named = dict.fromkeys(self._queues.bounded(q) for q in tick["queues"])
            queues = {**dict.fromkeys(["", *named], Depth(0, None)), **depths.queues}
            paused = {q: one for q, one in queues.items() if depths.is_paused(q)}
            awake = queues | dict.fromkeys(paused, Depth(0, None))
            now = timezone.now()
            sizes = {queue: float(one.size) for queue, one in awake.items()}
            ages = {queue: one.age(now) for queue, one in awake.items()}
            resting = {queue: float(one.size) for queue, one in paused.items()}
            yield gauge("queue_depth", "Tasks that are due, and wait", sizes, "queue")
            text = "For how long the one that waits longest has been due"
            yield gauge("oldest_due_seconds", text, ages, "queue")
            text = "Tasks that are due, and wait since their queue is paused"
            yield gauge("paused_depth", text, resting, "queue")

    def _by_queue(self, counts: Mapping[str, int]) -> dict[str, float]:
        found: dict[str, float] = {"": 0.0}
        for queue, count in counts.items():
            name = self._queues.bounded(queue)
            found[name] = found.get(name, 0.0) + count
        return found


class _Names:
    """A bounded number of names, the first that come; the rest has one in common."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = {""}

    def bounded(self, name: str) -> str:
        if name not in self._known and len(self._known) < self._most:
            self._known.add(name)
        return name if name in self._known else _OTHERS


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in a queue: how many tasks are due, and since when the first is."""

    size: int
    oldest: datetime | None

    def __add__(self, other: "Depth") -> "Depth":
        moments = [at for at in (self.oldest, other.oldest) if at is not None]
        return Depth(self.size + other.size, min(moments, default=None))

    def age(self, now: datetime) -> float:
        """Return for how many seconds the first has been due; 0 if none is."""
        if self.oldest is None:
            return 0.0
        return max(0.0, (now - self.oldest).total_seconds())


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits by queue, "" for none, and which queues a person has paused."""

    queues: Mapping[str, Depth]
    paused: Collection[str]
    everything: bool  # is paused

    def is_paused(self, queue: str) -> bool:
        return self.everything or queue in self.paused


class Depths:
    """What waits in the queues, as the database said a few seconds ago.

    A thread asks it, on a connection that it closes again; while it hangs nobody else
    does.
    """

    def __init__(self) -> None:
        self._known: Waiting | None = None
        self._changed = threading.Condition()
        self._asking = False
        self._fresh_until = 0.0
        self._failed = False

    def known(self) -> Waiting | None:
        """Return what waits; None: the database is away."""
        return self._known

    def refresh(self, patience: float) -> None:
        """Have it asked again if it is time, and wait so many seconds for it."""
        with self._changed:
            if not self._asking and time.monotonic() >= self._fresh_until:
                threading.Thread(target=self._ask, daemon=True).start()
                self._asking = True  # it waits for us before it says that it has done
            if not self._changed.wait_for(lambda: not self._asking, patience):
                self._known = None  # it hangs

    def _ask(self) -> None:
        began, found, kept_for = time.monotonic(), None, _KEPT_FOR
        try:
            found = depths()
            self._failed = False
            kept_for = max(kept_for, (time.monotonic() - began) / _SHARE)
        except Exception as error:
            if not self._failed:
                logger.warning("The monitor cannot ask what waits: %s", error)
            self._failed = True
        finally:
            with self._changed:
                self._known, self._asking = found, False
                self._fresh_until = time.monotonic() + kept_for
                self._changed.notify_all()


def depths() -> Waiting:
    """Ask the database what waits, on a connection for this alone.

    At most 5 s; the queues with the most tasks, if there are very many.
    """
    from . import control
    from .models import Task

    alias = router.db_for_write(Task)  # a replica may not know
    connection = connections[alias]
    waiting.limit(connection, _LONGEST_QUERY)
    due = Task.objects.using(alias).filter(WAITING, run_at__lte=timezone.now())
    rows = due.values("queue").annotate(size=Count("pk"), oldest=Min("run_at"))
    try:
        connection.ensure_connection()
        waiting.impose(connection, _LONGEST_QUERY)
        found = list(rows.order_by("-size")[:_MOST_QUEUES])
        paused = {row.target for row in control.paused()[:_MOST_QUEUES]}
    finally:
        connection.close()
    queues: dict[str, Depth] = {}
    for row in found:
        depth = Depth(row["size"], row["oldest"])
        queue = row["queue"] or ""  # rows of 1.2.8 may have an empty one
        queues[queue] = depth + queues[queue] if queue in queues else depth
    everything = control.EVERY_QUEUE in paused
    idle = dict.fromkeys(paused - {control.EVERY_QUEUE}, Depth(0, None))
    return Waiting({**idle, **queues}, frozenset(paused), everything)
