"""What do people ask of a runner, and what becomes of what no runner will answer?

For bookkeepers: `control` writes the rows of `Control`, this reads and settles them.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, router, transaction
from django.db.models import CharField, Q, QuerySet
from django.db.models.functions import Cast

from . import books
from .managers import TaskQuerySet
from .models import Control, Runner, Task, row_id
from .outages import is_passing, say_no_values
from .states import CANCELLED

logger = logging.getLogger(__name__)

_ASKED_FOR = 15.0  # seconds after which nobody waits for what people look at
_LOOKED_AT = {Control.Verb.OUTPUT, Control.Verb.STACK}
_READ_AT_A_TIME, _CANCELLED_AT_A_TIME = 1000, 100  # tasks, between two renewals
# When it was asked for, as text: it is only told from another time, and what Python
# can't read must not keep the other rows from being read.
_ASKED = Cast("at", CharField(max_length=64))


@dataclass(slots=True)
class Orders:
    """What is asked of one runner, and of the tasks that it runs."""

    paused: set[str] = field(default_factory=set)
    drain_by: str | None = None
    stop: dict[int, str] = field(default_factory=dict)  # by whom, by task
    output: set[int] = field(default_factory=set)  # tasks
    stack: set[int] = field(default_factory=set)
    stale: set[tuple[int, str]] = field(default_factory=set)  # rows, asked when
    for_others: bool = False  # is anything asked of others, or of what is gone?


class OrderBook:
    """What one runner has read of all that is asked for."""

    def __init__(self, runner: str) -> None:
        self._runner = runner
        # When each request of what people look at was first read: hosts have clocks
        # of their own, and so has whoever asks.
        self._since: dict[tuple[int, str], float] = {}

    def read(self, running: Collection[int]) -> Orders:
        """Return what is asked of the runner and of the tasks that it runs.

        One query, and nothing is written.
        """
        orders, now = Orders(), time.monotonic()
        former, self._since = self._since, {}
        rows = _rows().annotate(answered=Q(answer__gt=""), asked=_ASKED)
        fields = "pk", "verb", "target", "by", "asked", "answered"
        for pk, verb, target, by, asked, answered in rows.values_list(*fields):
            task = row_id(target)
            if verb in _LOOKED_AT:
                since = self._since[pk, asked] = former.get((pk, asked), now)
                if now > since + _ASKED_FOR:
                    orders.stale.add((pk, asked))
                    continue
            match verb:
                case Control.Verb.PAUSE:
                    orders.paused.add(target)
                case Control.Verb.DRAIN if target == self._runner:
                    orders.drain_by = by
                case Control.Verb.STOP if task in running:
                    orders.stop[task] = by
                case Control.Verb.OUTPUT if task in running:
                    orders.output.add(task)
                case Control.Verb.STACK if task in running and not answered:
                    orders.stack.add(task)
                case Control.Verb.DRAIN | Control.Verb.STOP:
                    orders.for_others = True
        return orders


def settle(orders: Orders, running: Collection[int]) -> Iterator[books.Entry]:
    """Have done with what has become pointless, as `orders` has it.

    A task that waits, and that was to be stopped, is cancelled: those are yielded, for
    `books.announce`. What nobody waits for any more, and what is asked of a runner that
    is gone, is forgotten. Some of it may be left to the next call.
    """
    for pk, asked in orders.stale:  # unless it was asked for again
        _rows().annotate(asked=_ASKED).filter(pk=pk, asked=asked).delete()
    if orders.for_others:
        _forget_drains()
        yield from _stop_what_waits(running)


def tell(verb: str, task: int, what: Any) -> None:
    """Write what a task has answered: plain data."""
    rows = _rows().filter(verb=verb, target=str(task))
    rows.update(answer=json.dumps(what))


def _forget_drains() -> None:
    """Forget what is asked of runners that are gone."""
    drains = _rows().filter(verb=Control.Verb.DRAIN)
    asked = dict(drains.values_list("target", "pk"))
    runners = Runner.objects.using(_database()).filter(pk__in=asked)
    known = set(runners.values_list("pk", flat=True))
    gone = [pk for target, pk in asked.items() if target not in known]
    drains.filter(pk__in=gone).delete()


def _stop_what_waits(running: Collection[int]) -> Iterator[books.Entry]:
    """Cancel tasks that are to be stopped and that no runner holds."""
    asked = _stops_of_others(running)
    tasks: QuerySet[Task] = Task.objects.using(_database()).filter(pk__in=asked)
    held = set(tasks.exclude(locked_by=None).values_list("pk", flat=True))
    waiting = [pk for pk in asked if pk not in held][:_CANCELLED_AT_A_TIME]
    by_whom = defaultdict(list)
    for pk in waiting:
        by_whom[asked[pk]].append(pk)
    for by, pks in by_whom.items():
        yield from _cancel(pks, by)
    # One that was claimed meanwhile is left to whoever runs it.
    there = set(tasks.filter(pk__in=waiting).values_list("pk", flat=True))
    _forget_stops([pk for pk in waiting if pk not in there])


def _stops_of_others(running: Collection[int]) -> dict[int, str]:
    """Return which tasks are to be stopped, by whom, but for those of this runner."""
    rows = _rows().filter(verb=Control.Verb.STOP).order_by("pk")
    asked, nonsense = {}, []
    for target, by in rows.values_list("target", "by")[:_READ_AT_A_TIME]:
        if not (task := row_id(target)):
            nonsense.append(target)
        elif task not in running:
            asked[task] = by
    if nonsense:
        rows.filter(target__in=nonsense).delete()
    return asked


def _cancel(pks: Collection[int], by: str) -> Iterator[books.Entry]:
    """Cancel tasks together, else each alone: one that is refused stops no other.

    One whose row another has locked is left for later.
    """
    try:
        with transaction.atomic(using=_database()):
            rows: TaskQuerySet = Task.objects.using(_database()).filter(pk__in=pks)
            free = list(rows.lock_unlocked_rows().values_list("pk", flat=True))
            cancelled = books.cancel(free, f"{CANCELLED}{by}", ends_chain=False)
    except Exception as error:
        if is_passing(connections[_database()], error):
            raise
        if len(pks) == 1:
            say_no_values(error)
            text = "Task %s, which %s wants stopped, could not be cancelled: it stays"
            logger.exception(text, *pks, by)
            _forget_stops(pks)
            return
    else:
        yield from cancelled
        return
    for pk in pks:
        yield from _cancel([pk], by)


def _forget_stops(tasks: Collection[int]) -> None:
    if tasks:
        targets = [str(task) for task in tasks]
        _rows().filter(verb=Control.Verb.STOP, target__in=targets).delete()


def _rows() -> QuerySet[Control]:
    return Control.objects.using(_database())


def _database() -> str:
    return router.db_for_write(Task)
