"""The one seam between the two packages: Task → Job, Outcome → Task.

Called in the bookkeeper's process only. Nothing of the user's runs here but settings
and `AppConfig.ready`: no task and no receiver of a model's signals.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, assert_never

from django.conf import settings
from django.db import Error, connections, models, router, transaction
from django.db.backends.signals import connection_created
from django.utils import timezone

from background_task import (
    __version__,
    execution,
    logrecords,
    policies,
    sessions,
    signals,
    waiting,
)
from background_task.limits import LimitRules, SettingError
from background_task.outages import is_busy, is_passing, say_no_values
from background_task.served import EVERYTHING, Served
from background_task.tables import look_for_columns, migrate_text

from . import clock, processes
from .evidence import Ended
from .job import Job, Limits
from .outcome import (
    Cancelled,
    Crashed,
    Failed,
    Lost,
    Outcome,
    OutOfMemory,
    Released,
    Succeeded,
    TimedOut,
)
from .queue import Orders, QueueBusy, QueueUnavailable, QueueUnusable, Runner

logger = logging.getLogger("background_task.supervisor")

_TARGET = "background_task.execution:execute"
# What `task_error` is still to be sent for: a task that raised has sent it itself.
_ERRORS: dict[type, str] = {
    TimedOut: "TaskTimeout",
    OutOfMemory: "TaskOutOfMemory",
    Crashed: "TaskCrashed",
    Lost: "TaskLost",
}

# Seconds between two looks for locks that no runner's end explains: their owners were
# never runners of ours, or have vanished from the table.
_STRANGERS_EVERY = 10.0
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
        """`arguments`: lease (s), rules (of LimitRules), reclaim_pids, and three lists.

        Those are the queues that are served (none: all), the `excluded` ones, and the
        `pools`: queues with slots of their own.
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
        self._news: list[dict[str, Any]] = []
        self._strangers_at = 0.0
        self._shares_sessions = False  # a pooler has given our session to another
        self._reconnects = False  # as soon as no transaction is open
        self._hosts = {runner.id: runner.host[:255]}  # by runner, of those we write of
        self._left_alone: set[Any] = set()  # claims of the dead that can't be settled
        self._alias = router.db_for_write(Task)
        self._connection = connections[self._alias]
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
            self._record(by_claim)

    def abandon(self, claim: str, text: str, *, succeeded: bool) -> None:
        parsed = self._parse(claim)
        with self._translated():
            if self._books.abandon(parsed, text, succeeded=succeeded):
                self._tell_abandoned(parsed, text)

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
            neighbours = list(
                self._rows()
                .filter(place=self._runner.place)
                .exclude(pk=self._runner.id)
                .only("pk", "host", "place", "pid", "pid_started")
            )
            if not neighbours:
                return []
            lapsed = set(self._leases.lapsed().values_list("pk", flat=True))
        return [
            Runner(row.id, row.host, row.place, row.pid, row.pid_started)
            for row in neighbours
            if self._is_dead(row, lapsed=row.id in lapsed)
        ]

    def _is_dead(self, neighbour: Any, *, lapsed: bool) -> bool:
        match processes.presence(neighbour.pid, neighbour.pid_started):
            case "gone":
                return True
            case "hidden":  # nothing but its lease tells
                return lapsed
            case "there":  # with SQLite, a long wait for the one lock is normal
                return lapsed and self._connection.vendor != "sqlite"

    def rescue(self, runner: str | None = None) -> int:
        with self._translated():
            if runner is not None:
                return self._lose(runner, "its runner died")
            others = self._leases.lapsed().exclude(place=self._runner.place)
            lost = sum(
                self._lose(pk, f"nothing was heard of its runner on {host}")
                for pk, host in list(others.values_list("pk", "host"))
            )
            if self._strangers_at <= clock.now():
                lost += self._rescue_from_strangers()
                self._claims.free_expired()  # what is left of expired locks is a pid's
                self._strangers_at = clock.now() + _STRANGERS_EVERY
            return lost

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
                self._announce(entry, None)
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
        news, self._news = self._news, []
        return news

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

    # Outcomes

    def _record(self, endings: Mapping[Any, Ended]) -> None:
        """Carry outcomes over into the rows; a fenced claim changes nothing."""
        given_back = {
            claim: ended.outcome
            for claim, ended in endings.items()
            if isinstance(ended.outcome, Released)
        }
        if given_back:
            for claim, task in self._books.release_all(given_back).items():
                self._log_release(claim, task, given_back[claim])
        over = {c: ended for c, ended in endings.items() if c not in given_back}
        entries = self._books.record([self._ending(*item) for item in over.items()])
        for (claim, ended), entry in zip(over.items(), entries, strict=True):
            if entry is not None:
                self._tell(claim, entry, ended.outcome)
                self._announce(entry, _error_of(ended.outcome))

    def _ending(self, claim: Any, ended: Ended) -> Any:
        outcome = ended.outcome
        evidence = self._evidence(claim, ended)
        Ending, text = self._books.Ending, str(outcome)
        match outcome:
            case Succeeded():
                return Ending(claim, evidence=evidence)
            case (
                Failed(permanent=permanent)
                | TimedOut(permanent=permanent)
                | OutOfMemory(permanent=permanent)
            ):
                return Ending(claim, text, permanent, evidence)
            case Cancelled():
                return Ending(claim, text, True, evidence)
            case Crashed() | Lost():
                return Ending(claim, text, False, evidence)
            case Released():
                raise AssertionError("it is given back, and has no ending")
            case _:
                assert_never(outcome)

    def _evidence(self, claim: Any, ended: Ended) -> dict[str, Any]:
        """Return what is known of a try, as columns of `Attempt`."""
        known = ended.evidence
        return {
            "outcome": type(ended.outcome).__name__,
            "started_at": _moment(known.started),
            "ended_at": _moment(known.ended) or timezone.now(),
            "host": self._hosts.get(claim.locked_by, ""),
            "runner_id": claim.locked_by or "",
            "pid": known.pid,
            "exit_code": known.exitcode,
            "peak_memory": known.peak,
            "cpu_seconds": known.cpu,
            "output": known.output,
            "output_size": known.output_size,
            "stack": known.stack,
        }

    def _announce(self, entry: Any, error: str | None) -> None:
        """Have it announced, once it is committed; see `execution.announce`."""
        completed = entry.completed and entry.completed.pk
        one = {"task": entry.task.pk, "completed": completed, "error": error}
        transaction.on_commit(lambda: self._news.append(one), using=self._alias)

    def _log_release(self, claim: Any, task: Any, outcome: Released) -> None:
        level = logging.INFO if outcome.ahead else logging.WARNING
        said = logrecords.fields(task, task.attempts + 1, claim.locked_by, "Released")
        text, what = "Given back, at no attempt's cost: %s", f"task {task.with_id()}"
        self._log(level, text, f"{what}. {outcome}", extra=said)

    def _tell(self, claim: Any, entry: Any, outcome: Outcome) -> None:
        """Log what was recorded: the one record at ERROR of a try that ended badly.

        What a person has stopped has not: nobody is to be woken for it.
        """
        more = [str(outcome)]
        match outcome:
            case Succeeded():
                level, text, more = logging.INFO, "Ran task and deleting %s", []
            case Cancelled():
                level, text = logging.WARNING, "Stopped for good: %s\n%s"
            case _ if entry.completed is not None:
                level, text = logging.ERROR, "Failed for good: %s\n%s"
            case _:
                level, text = logging.ERROR, "Rescheduling %s\n%s"
        task, kind = entry.task, type(outcome).__name__
        said = logrecords.fields(task, task.attempts, claim.locked_by, kind)
        self._log(level, text, f"task {task.with_id()}", *more, extra=said)

    def _tell_abandoned(self, claim: Any, text: str) -> None:
        rows = self._models[0].objects.using(self._alias).filter(pk=claim.pk)
        task = rows.only("pk", "task_name", "queue", "attempts").get()
        said = logrecords.fields(task, task.attempts, claim.locked_by, "Abandoned")
        self._log(logging.ERROR, "Task %s is abandoned: %s", task.pk, text, extra=said)

    def _log(self, *args: Any, extra: dict[str, Any]) -> None:
        """Log it once it is committed."""
        log = partial(self._tasks_logger.log, *args, extra=extra)
        transaction.on_commit(log, using=self._alias)

    # The dead

    def _lose(self, owner: str, why: str) -> int:
        """Record what a dead owner held as lost, and forget it if it is a runner.

        Both or neither; one by one if something is refused, for the others' sake.
        """
        try:
            return self._lose_together(owner, Lost(why))
        except Exception as error:
            if is_passing(self._connection, error):
                raise
            say_no_values(error)
            self._tasks_logger.exception("What %s held is lost one by one", owner)
        tries = self._lose_each(owner, Lost(why))
        return tries + self._lose_together(owner, Lost(why))

    def _lose_together(self, owner: str, lost: Lost) -> int:
        with transaction.atomic(using=self._alias):
            row = self._rows().filter(pk=owner)
            found = row.select_for_update().values_list("host", flat=True).first()
            self._hosts[owner] = found or ""
            # What another has locked is a stranger's from now on, for a later round.
            held = self._books.held_by(owner, skip_locked=True)
            claims = [claim for claim in held if claim not in self._left_alone]
            if claims:
                self._record(dict.fromkeys(claims, Ended(lost)))
            row.delete()
        return len(claims)

    def _lose_each(self, owner: str, lost: Lost) -> int:
        held = self._books.held_by(owner)
        return sum(
            self._lose_one(claim, lost)
            for claim in held
            if claim not in self._left_alone
        )

    def _lose_one(self, claim: Any, lost: Lost) -> bool:
        """Record it as lost, else abandon it, else leave it alone from now on."""
        try:
            with transaction.atomic(using=self._alias):
                self._record({claim: Ended(lost)})
            return True
        except Exception as error:
            if is_passing(self._connection, error):
                raise
            say_no_values(error)
            self._tasks_logger.exception("Task %s could not be lost", claim.pk)
            text = f"{lost}; that could not be recorded: {error}"
        try:
            return bool(self._books.abandon(claim, text))
        except Exception as error:
            if is_passing(self._connection, error):
                raise
            say_no_values(error)
            self._tasks_logger.exception(
                "Task %s can't even be abandoned: it stays locked by %r, and this "
                "runner leaves it alone from now on",
                *claim[:2],
            )
            self._left_alone.add(claim)
            return False

    def _rescue_from_strangers(self) -> int:
        """Rows that are locked by what is no number and no runner: nobody has them."""
        Task = self._models[0]
        known = self._rows().filter(pk=models.OuterRef("locked_by"))
        owners = (
            Task.objects.using(self._alias)
            .exclude(locked_by=None)
            .exclude(locked_by=self._runner.id)  # if its row is gone: fenced, not lost
            .exclude(models.Exists(known))
            .values_list("locked_by", flat=True)
            .distinct()
        )
        strangers = [owner for owner in owners if owner and not owner.isdecimal()]
        return sum(self._lose(owner, "its runner is unknown") for owner in strangers)

    def _rows(self) -> Any:
        RunnerRow = self._models[-1]
        return RunnerRow._base_manager.using(self._alias)

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


def _error_of(outcome: Outcome) -> str | None:
    """Return what `task_error` is still to be sent for, by name."""
    if isinstance(outcome, OutOfMemory) and outcome.error:
        return None  # the task has raised it
    return _ERRORS.get(type(outcome))


def _epoch(moment: datetime) -> float | None:
    """Return a moment as seconds since the epoch; None: it is too long ago."""
    try:
        return moment.timestamp()
    except (OverflowError, ValueError, OSError):
        return None


def _moment(epoch: float | None) -> datetime | None:
    """Return a moment as `timezone.now()` would have told it."""
    if epoch is None:
        return None
    moment = datetime.fromtimestamp(epoch, tz=UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)
