"""The one seam between the two packages: Task → Job, Outcome → Task.

What is imported here needs no Django that is set up; its two neighbours, which write
outcomes and settle what the dead have left, are imported when it is.

Called in the bookkeeper's process only. Nothing of the user's runs here but settings
and `AppConfig.ready`: no task and no receiver of a model's signals.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import Error, connections, router, transaction
from django.db.backends.signals import connection_created
from django.utils import timezone

from background_task import (
    __version__,
    execution,
    policies,
    sessions,
    signals,
    waiting,
)
from background_task.limits import LimitRules, SettingError
from background_task.outages import is_busy, is_passing, say_no_values
from background_task.served import EVERYTHING, Served
from background_task.tables import look_for_columns, migrate_text

from .evidence import Ended
from .job import Job, Limits
from .queue import Orders, QueueBusy, QueueUnavailable, QueueUnusable, Runner

logger = logging.getLogger("background_task.supervisor")

_TARGET = "background_task.execution:execute"
_SHARED = (
    "The database is reached through a pooler in transaction mode, where NOTIFY is not "
    "heard: tasks are found by looking, at most --sleep seconds apart. Give "
    "process_tasks a pool in session mode, or set BACKGROUND_TASK_NOTIFY = False"
)
_ELSEWHERE = 2.0  # seconds at most for a session on another database to be ended


class DatabaseQueue:
    """The tasks in the database, for one runner; see `queue.Queue` for the methods."""

    def __init__(
        self, environment: dict[str, Any], arguments: dict[str, Any], runner: Runner
    ) -> None:
        """`arguments`: lease (s), slots, rules (of LimitRules), reclaim_pids, lists.

        The lists are the queues that are served (none: all), the `excluded` ones, and
        the `pools`: queues with slots of their own.
        """
        execution.set_up(environment)
        signals.silence_model_signals()
        from background_task import (
            books,
            claims,
            control,
            leases,
            orders,
            pruning,
            wakeups,
        )
        from background_task.models import Attempt, CompletedTask, Control, Task
        from background_task.models import Runner as RunnerRow

        from . import database_dead, database_endings

        self._books, self._claims, self._leases = books, claims, leases
        self._control, self._pruner = control, pruning.Pruner()
        self._orders, self._order_book = orders, orders.OrderBook(runner.id)
        self._asked = orders.Orders()
        self._models = Task, CompletedTask, Attempt, Control, RunnerRow
        self._tasks_logger = logging.getLogger("background_task.tasks")
        self._runner = runner
        self._lease: float = arguments["lease"]
        self._slots: int = arguments["slots"]
        self._pools: list[str] = arguments["pools"]
        self._named = Served(
            frozenset(arguments["queues"]), frozenset(arguments["excluded"])
        )
        self._serve(self._named)
        self._rules = LimitRules(**arguments["rules"])
        self._reclaim_pids: bool = arguments["reclaim_pids"]
        self._shares_sessions = False  # a pooler has given our session to another
        self._reconnects = False  # as soon as no transaction is open
        self._alias = router.db_for_write(Task)
        self._connection = connections[self._alias]
        self._writer = database_endings.Writer(self._alias, runner)
        self._dead = database_dead.Dead(self._alias, runner, self._lease, self._writer)
        self._listener = wakeups.listener(
            self._connection, lambda queue: queue in self._served
        )
        for alias in connections:
            limit = self._lease / 3 if alias == self._alias else _ELSEWHERE
            waiting.limit(connections[alias], min(limit, self._lease / 3))
        connection_created.connect(self._prepare, weak=False)

    def open(self, *, register: bool) -> None:
        with self._translated():
            try:
                for model in self._models:
                    look_for_columns(model, self._alias)
                self._claims.may_be_due([], EVERYTHING)  # are the indexes there?
            except Error as error:
                if is_passing(self._connection, error):
                    raise
                raise QueueUnusable(migrate_text(self._alias, error)) from error
            if register and self._reclaim_pids:
                self._claims.reclaim_pids()
                self._reclaim_pids = False  # once: others may lock by a pid later
            if register:
                self._leases.register(
                    self._runner.id,
                    self._lease,
                    host=self._runner.host[:255],
                    place=self._runner.place,
                    pid=self._runner.pid,
                    pid_started=self._runner.started,
                    version=__version__,
                    slots=self._slots,
                    queues=sorted(self._named.queues),
                    excluded_queues=sorted(filter(None, self._named.excluded)),
                )

    def _prepare(self, sender: Any, connection: Any, **kwargs: Any) -> None:
        """Have a new connection not wait long; the queue's also plans and listens."""
        is_ours = connection.alias == self._alias
        plans = self._claims.SESSION.get(connection.vendor, ()) if is_ours else ()
        shared = self._sessions_are_shared if is_ours else None
        waiting.impose(connection, self._lease / 3, plans, shared)
        if is_ours and not self._shares_sessions:
            self._listener.prepare(connection)

    def _sessions_are_shared(self) -> None:
        """Whoever listens in a session is not told of by another: say so once."""
        if not self._shares_sessions and self._listener.fileno() is not None:
            logger.warning(_SHARED)
        self._shares_sessions = True

    def know(self, tasks: Mapping[str, Any]) -> None:
        from background_task.settings import app_settings

        overrides = self._overrides = app_settings.BACKGROUND_TASK_OVERRIDES
        self._decorators = dict(tasks)
        self._limits = {}
        self._named_queues = {decorator.get("queue") for decorator in tasks.values()}
        for name, decorator in tasks.items():
            try:
                limits = self._rules.limits(decorator, overrides.get(name, {}))
            except SettingError as error:
                raise QueueUnusable(f"Task {name}: {error}") from error
            self._limits[name] = Limits(**limits)
            policies.declare(name, decorator)
        self.admit((), None)

    def admit(self, avoided: Collection[str], only: str | None) -> None:
        self._claimed_names = [
            name
            for name, limits in self._limits.items()
            if name not in avoided and (only in (None, name) or limits.memory is None)
        ]

    def _serve(self, served: Served) -> None:
        """Claim of these queues only, until told otherwise."""
        self._served = served
        pools: dict[str | None, frozenset[str]] = {
            pool: frozenset({pool}) for pool in self._pools
        }
        shared = self._named.queues.difference(self._pools)
        if shared or not self._pools:
            pools[None] = shared
        self._by_pool = {
            pool: replace(self._served, queues=queues) for pool, queues in pools.items()
        }

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self._translated(), transaction.atomic(using=self._alias):
            yield

    def renew(self) -> bool:
        with self._translated():
            return self._leases.renew(self._runner.id, self._lease)

    def claim(
        self, wanted: Mapping[str | None, int], held: Collection[str]
    ) -> list[Job]:
        if self._served.nothing:
            return []
        running = {self._parse(claim).pk for claim in held}
        of_queues = {self._by_pool[pool]: n for pool, n in wanted.items()}
        with self._translated():
            try:
                tasks = self._claims.claim(
                    self._runner.id, self._claimed_names, of_queues, running
                )
            except self._leases.LeaseLost as error:
                raise QueueUnavailable(str(error)) from error
        return [self._job(task) for task in tasks]

    def end_sessions(self, left: Collection[Mapping[str, Any]]) -> None:
        left = [session for session in left if isinstance(session.get("alias"), str)]
        out_of_reach: set[str] = set()  # each costs a wait, so it is tried once
        for session in left:
            alias = session["alias"]
            if alias in out_of_reach or alias not in connections:
                continue
            if sessions.end_session(session) is None:
                out_of_reach.add(alias)
        for alias in {session["alias"] for session in left} - {self._alias}:
            if alias in connections:
                connections[alias].close()
        self._forget_broken_connection()

    def progress(self, claim: str, done: int, total: int | None, message: str) -> None:
        with self.transaction():
            parsed = self._parse(claim)
            if not self._books.note_progress(parsed, done, total, message):
                raise QueueBusy(f"The row of {claim} is in use")

    def record(self, endings: Mapping[str, Ended]) -> None:
        by_claim = {self._parse(claim): end for claim, end in endings.items()}
        with self._translated():
            self._writer.record(by_claim)

    def abandon(self, claim: str, text: str, *, succeeded: bool) -> None:
        with self._translated():
            self._writer.abandon(self._parse(claim), text, succeeded=succeeded)

    def strays(self, held: Collection[str]) -> set[str]:
        running = {self._parse(claim).pk for claim in held}
        with self._translated():
            return {
                _claim_text(pk, locked_at)
                for pk, _, locked_at in self._books.held_by(self._runner.id)
                if pk not in running
            }

    def may_be_due(self, pools: Collection[str | None]) -> bool:
        if self._served.nothing:
            return False
        with self._translated():
            return any(
                self._claims.may_be_due(self._claimed_names, self._by_pool[pool])
                for pool in pools
            )

    def fileno(self) -> int | None:
        return self._listener.fileno()

    def hear_every(self) -> float | None:
        return self._listener.every

    def heard(self) -> bool:
        with self._translated():
            return self._listener.heard()

    def next_due(self, within: float, pools: Collection[str | None]) -> float | None:
        served = [self._by_pool[pool] for pool in pools]
        if self._served.nothing:
            return None
        with self._translated():
            run_at = self._claims.next_run_at(within, served)
        return None if run_at is None else (run_at - timezone.now()).total_seconds()

    def unknown_names(self) -> set[str]:
        if self._served.nothing:
            return set()
        with self._translated():
            return self._claims.unknown_names(list(self._limits), self._served)

    def unknown_queues(self) -> set[str]:
        unnamed = self._named.names - self._named_queues
        with self._translated():
            return self._claims.unused_queues(unnamed)

    def dead_runners(self) -> list[Runner]:
        with self._translated():
            return self._dead.neighbours()

    def rescue(self, runner: str | None = None) -> int:
        with self._translated():
            return self._dead.rescue(runner)

    def called(self) -> bool:
        with self._translated():
            return self._listener.called()

    def orders(self, held: Collection[str]) -> Orders:
        claims = {self._parse(claim).pk: claim for claim in held}
        with self._translated():
            orders = self._order_book.read(claims.keys())
        if orders.paused != self._asked.paused:
            self._serve(self._control.without(self._named, orders.paused))
        self._asked = orders
        return Orders(
            paused=sorted(orders.paused),
            drain_by=orders.drain_by,
            stop={claims[task]: by for task, by in orders.stop.items()},
            output=sorted(claims[task] for task in orders.output),
            stack=sorted(claims[task] for task in orders.stack),
            pointless=orders.for_others or bool(orders.stale),
        )

    def settle_orders(self, held: Collection[str]) -> int:
        running, cancelled = {self._parse(claim).pk for claim in held}, 0
        with self._translated():
            for entry in self._orders.settle(self._asked, running):
                self._writer.announce(entry, None)
                cancelled += 1
        return cancelled

    def report(self, running: list[dict[str, Any]], *, draining: bool) -> None:
        with self._translated():
            self._leases.report(self._runner.id, running=running, draining=draining)

    def answer(self, verb: str, claim: str, what: dict[str, Any]) -> None:
        with self._translated():
            self._orders.tell(verb, self._parse(claim).pk, what)

    def prune(self, most: int) -> int:
        with self._translated():
            return self._pruner.prune(most)

    def news(self) -> list[dict[str, Any]]:
        return self._writer.news()

    def close(self) -> None:
        with self._translated():
            self._leases.sign_off(self._runner.id)
        self._connection.close()

    # Jobs and claims

    def _job(self, task: Any) -> Job:
        return Job(
            id=task.pk,
            name=task.task_name,
            target=_TARGET,
            args={
                "id": task.pk,
                "name": task.task_name,
                "params": task.task_params,
                "title": str(task),
                "attempt": task.attempts + 1,
                "queue": task.queue,
                "runner": self._runner.id,
            },
            claim=_claim_text(task.pk, task.locked_at),
            queue=task.queue,
            due=_epoch(task.run_at),
            limits=self._limits_of(task),
        )

    def _limits_of(self, task: Any) -> Limits:
        if task.max_run_time is None:
            return self._limits[task.task_name]
        name, call = task.task_name, {"max_run_time": task.max_run_time}
        override = self._overrides.get(name, {})
        try:
            limits = self._rules.limits(self._decorators[name], override, call)
        except SettingError as error:  # not by a call: it would have been refused
            self._tasks_logger.warning("Task %s: %s", task.with_id(), error)
            return self._limits[name]
        return Limits(**limits)

    def _parse(self, claim: str) -> Any:
        pk, _, locked_at = claim.partition("@")
        moment = datetime.fromisoformat(locked_at) if locked_at else None
        return self._books.Claim(int(pk), self._runner.id, moment)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what waiting can cure into QueueUnavailable; let the rest through."""
        try:
            yield
        except Error as error:
            say_no_values(error)
            if not is_passing(self._connection, error):
                raise
            is_away = not is_busy(self._connection, error)
            self._reconnects = self._reconnects or is_away
            kind = QueueUnavailable if is_away else QueueBusy
            if is_away:
                self._dead.doubt()
            text = " ".join(str(error).split())
            raise kind(f"{type(error).__name__}: {text}") from error
        finally:
            self._forget_broken_connection()

    def _forget_broken_connection(self) -> None:
        """Have the next statement connect, after an outage even if it still could be.

        What has become read-only stays so for the sessions that it has: a primary that
        is a replica now, a file of SQLite's that was opened while it was.
        """
        connection = self._connection
        if connection.in_atomic_block:
            return
        if self._reconnects:
            self._reconnects = False
            connection.close()
        elif connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()


def _claim_text(pk: int, locked_at: datetime | None) -> str:
    """Return a claim as text; NULL, which we never write, stands for no moment."""
    return f"{pk}@{'' if locked_at is None else locked_at.isoformat()}"


def _epoch(moment: datetime) -> float | None:
    """Return a moment as seconds since the epoch; None: it is too long ago."""
    try:
        return moment.timestamp()
    except (OverflowError, ValueError, OSError):
        return None
