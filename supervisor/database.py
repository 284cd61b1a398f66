"""The one seam between the two packages: Task → Job, Outcome → Task.

Called in the bookkeeper's process only. Nothing of the user's runs here but settings
and `AppConfig.ready`: no task and no receiver of a model's signals.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, assert_never

from django.db import Error, connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import signals as model_signals
from django.utils import timezone

from background_task import __version__, execution

from . import processes
from .job import Job
from .options import LimitRules, OptionError
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
from .queue import QueueUnavailable, QueueUnusable, Runner

_TARGET = "background_task.execution:execute"
# What `task_error` is still to be sent for: a task that raised has sent it itself.
_ERRORS: dict[type, str] = {
    TimedOut: "TaskTimeout",
    OutOfMemory: "TaskOutOfMemory",
    Crashed: "TaskCrashed",
    Lost: "TaskLost",
}

# sqlstates (their first two or all five characters) that are a matter of waiting:
# connection, resources, operator, rollback (deadlock, serialization), lock not
# available, read-only after a failover.
_PASSING = ("08", "53", "57", "58", "40", "55P03", "25006")
# errno of MySQL and MariaDB for a mistake that they call an OperationalError.
_MYSQL_MISTAKES = {1054, 1146, 1049, 1176}


class DatabaseQueue:
    """The tasks in the database, for one runner; see `queue.Queue` for the methods."""

    def __init__(
        self, environment: dict[str, Any], arguments: dict[str, Any], runner: Runner
    ) -> None:
        """`arguments`: lease (s), queues, rules (of LimitRules) and reclaim_pids."""
        execution.set_up(environment)
        _silence_model_signals()
        from background_task import books, claims, leases, wakeups
        from background_task.models import CompletedTask, Task
        from background_task.models import Runner as RunnerRow

        self._books, self._claims, self._leases = books, claims, leases
        self._models = Task, CompletedTask, RunnerRow
        self._tasks_logger = logging.getLogger("background_task.tasks")
        self._runner = runner
        self._lease: float = arguments["lease"]
        self._queues: list[str] = arguments["queues"]
        self._rules = LimitRules(**arguments["rules"])
        self._reclaim_pids: bool = arguments["reclaim_pids"]
        self._news: list[dict[str, Any]] = []
        self._alias = router.db_for_write(Task)
        self._connection = connections[self._alias]
        self._listener = wakeups.listener(self._connection, self._queues)
        _limit_waiting(self._connection, self._lease / 3)
        connection_created.connect(self._prepare, weak=False)

    def open(self, *, register: bool) -> None:
        with self._translated():
            try:
                for model in self._models:
                    model._base_manager.using(self._alias).first()
                self._claims.may_be_due([], [])  # are the indexes there?
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
                )

    def _prepare(self, sender: Any, connection: Any, **kwargs: Any) -> None:
        """Have a new connection plan as claims need it, and listen."""
        with connection.cursor() as cursor:
            for statement in self._claims.SESSION.get(connection.vendor, ()):
                cursor.execute(statement)
        self._listener.prepare(connection)

    def know(self, tasks: Mapping[str, Any]) -> None:
        from background_task.settings import app_settings

        overrides = app_settings.BACKGROUND_TASK_OVERRIDES
        self._limits = {}
        for name, decorator in tasks.items():
            try:
                limits = self._rules.limits(decorator, overrides.get(name, {}))
            except OptionError as error:
                raise QueueUnusable(f"Task {name}: {error}") from error
            self._limits[name] = limits

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self._translated(), transaction.atomic(using=self._alias):
            yield

    def renew(self) -> bool:
        with self._translated():
            return self._leases.renew(self._runner.id, self._lease)

    def claim(self, n: int, held: Collection[str]) -> list[Job]:
        running = {self._parse(claim).pk for claim in held}
        with self._translated():
            try:
                tasks = self._claims.claim(
                    self._runner.id, list(self._limits), self._queues, n, running
                )
            except self._leases.LeaseLost as error:
                raise QueueUnavailable(str(error)) from error
        return [self._job(task) for task in tasks]

    def record(self, endings: Mapping[str, Outcome]) -> None:
        by_claim = {self._parse(claim): end for claim, end in endings.items()}
        with self._translated():
            self._record(by_claim)

    def abandon(self, claim: str, text: str) -> None:
        with self._translated():
            self._books.abandon(self._parse(claim), text)

    def strays(self, held: Collection[str]) -> set[str]:
        Task, _, _ = self._models
        running = {self._parse(claim).pk for claim in held}
        rows = Task.objects.using(self._alias).filter(locked_by=self._runner.id)
        with self._translated():
            return {
                _claim_text(pk, locked_at)
                for pk, locked_at in rows.values_list("pk", "locked_at")
                if locked_at is not None and pk not in running
            }

    def may_be_due(self) -> bool:
        with self._translated():
            return self._claims.may_be_due(list(self._limits), self._queues)

    def fileno(self) -> int | None:
        return self._listener.fileno()

    def hear_every(self) -> float | None:
        return self._listener.every

    def heard(self) -> bool:
        with self._translated():
            return self._listener.heard()

    def next_due(self) -> float | None:
        with self._translated():
            run_at = self._claims.next_run_at()
        return None if run_at is None else (run_at - timezone.now()).total_seconds()

    def unknown_names(self) -> set[str]:
        with self._translated():
            return self._claims.unknown_names(list(self._limits), self._queues)

    def dead_runners(self) -> list[Runner]:
        with self._translated():
            neighbours = list(
                self._rows()
                .filter(place=self._runner.place)
                .exclude(pk=self._runner.id)
            )
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
                return self._bury(runner, "its runner died")
            self._claims.free_expired()
            others = self._leases.lapsed().exclude(place=self._runner.place)
            buried = sum(
                self._bury(row.id, f"nothing was heard of its runner on {row.host}")
                for row in others
            )
            return buried + self._rescue_from_strangers()

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
            },
            claim=_claim_text(task.pk, task.locked_at),
            limits=self._limits[task.task_name],
        )

    def _parse(self, claim: str) -> Any:
        pk, _, locked_at = claim.partition("@")
        moment = datetime.fromisoformat(locked_at)
        return self._books.Claim(int(pk), self._runner.id, moment)

    # Outcomes

    def _record(self, endings: Mapping[Any, Outcome]) -> None:
        """Carry outcomes over into the rows; a fenced claim changes nothing."""
        given_back = {c: o for c, o in endings.items() if isinstance(o, Released)}
        if given_back:
            for claim, task in self._books.release_all(given_back).items():
                self._log_release(task, given_back[claim])
        ended = {c: o for c, o in endings.items() if c not in given_back}
        entries = self._books.record([self._ending(*item) for item in ended.items()])
        for outcome, entry in zip(ended.values(), entries, strict=True):
            if entry is not None:
                self._tell(entry, outcome)
                self._announce(entry, _ERRORS.get(type(outcome)))

    def _ending(self, claim: Any, outcome: Outcome) -> Any:
        Ending, text = self._books.Ending, str(outcome)
        match outcome:
            case Succeeded():
                return Ending(claim)
            case Failed(permanent=permanent):
                return Ending(claim, text, permanent)
            case Cancelled():
                return Ending(claim, text, permanent=True)
            case TimedOut() | OutOfMemory() | Crashed() | Lost():
                return Ending(claim, text)
            case Released():
                raise AssertionError("it is given back, and has no ending")
            case _:
                assert_never(outcome)

    def _announce(self, entry: Any, error: str | None) -> None:
        """Have it announced, once it is committed; see `execution.announce`."""
        completed = entry.completed and entry.completed.pk
        one = {"task": entry.task.pk, "completed": completed, "error": error}
        transaction.on_commit(lambda: self._news.append(one), using=self._alias)

    def _log_release(self, task: Any, outcome: Released) -> None:
        logger, text = self._tasks_logger, f"task {task.with_id()}. {outcome}"
        log = logger.info if outcome.ahead else logger.warning
        transaction.on_commit(
            lambda: log("Given back, at no attempt's cost: %s", text), using=self._alias
        )

    def _tell(self, entry: Any, outcome: Outcome) -> None:
        """Log what was recorded, once it is committed."""
        if isinstance(outcome, Succeeded):
            level, text, more = logging.INFO, "Ran task and deleting %s", []
        else:
            level, more = logging.ERROR, [str(outcome)]
            is_over = entry.completed is not None
            text = "Failed for good: %s\n%s" if is_over else "Rescheduling %s\n%s"
        log, task = self._tasks_logger.log, f"task {entry.task.with_id()}"
        transaction.on_commit(lambda: log(level, text, task, *more), using=self._alias)

    # The dead

    def _bury(self, runner: str, why: str) -> int:
        """Record what a dead runner held as lost, and forget it: both or neither."""
        with transaction.atomic(using=self._alias):
            row = self._rows().filter(pk=runner)
            if row.select_for_update().first() is None:
                return 0  # another has done it
            lost = self._lose(runner, why)
            row.delete()
            return lost

    def _lose(self, locked_by: str, why: str) -> int:
        Task, _, _ = self._models
        tasks = Task.objects.using(self._alias).filter(locked_by=locked_by)
        count = 0
        for task in tasks.only("pk", "locked_by", "locked_at"):
            self._lose_one(self._books.Claim.of(task), Lost(why))
            count += 1
        return count

    def _lose_one(self, claim: Any, lost: Lost) -> None:
        """Record it as lost; abandon it if that is refused, for the others' sake."""
        try:
            with transaction.atomic(using=self._alias):
                self._record({claim: lost})
        except Exception as error:
            if isinstance(error, Error) and is_passing(self._connection, error):
                raise
            self._tasks_logger.exception("Task %s could not be lost", claim.pk)
            self._books.abandon(claim, f"{lost}; that could not be recorded: {error}")

    def _rescue_from_strangers(self) -> int:
        """Rows that are locked by what is no number and no runner: nobody has them."""
        Task, _, _ = self._models
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
        with transaction.atomic(using=self._alias):
            return sum(
                self._lose(owner, "its runner is unknown") for owner in strangers
            )

    def _rows(self) -> Any:
        _, _, RunnerRow = self._models
        return RunnerRow._base_manager.using(self._alias)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what waiting can cure into QueueUnavailable; let the rest through."""
        try:
            yield
        except Error as error:
            if not is_passing(self._connection, error):
                raise
            text = " ".join(str(error).split())
            raise QueueUnavailable(f"{type(error).__name__}: {text}") from error
        finally:
            self._forget_broken_connection()

    def _forget_broken_connection(self) -> None:
        connection = self._connection
        if connection.errors_occurred and not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def _claim_text(pk: int, locked_at: datetime) -> str:
    return f"{pk}@{locked_at.isoformat()}"


def is_passing(connection: BaseDatabaseWrapper, error: Error) -> bool:
    """Is this error an outage, which passes, and not a mistake, which stays?"""
    cause = error.__cause__
    if connection.vendor == "postgresql":
        sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if sqlstate is not None:
            return str(sqlstate).startswith(_PASSING)
    kind = type(error).__name__
    if kind == "InterfaceError":
        return True
    if kind != "OperationalError":
        return False
    if connection.vendor == "mysql":
        return not (error.args and error.args[0] in _MYSQL_MISTAKES)
    return not str(error).startswith("no such ")


def migrate_text(alias: str, error: Error) -> str:
    text = " ".join(str(error).split())
    return (
        f"The tables of background_task in database {alias!r} are missing or not up to "
        f"date ({text}). Run: manage.py migrate background_task --database {alias}"
    )


def _limit_waiting(connection: BaseDatabaseWrapper, seconds: float) -> None:
    """Have no call to the database wait longer than this: a lease is to be renewed."""
    options = connection.settings_dict.setdefault("OPTIONS", {})
    whole = max(1, int(seconds))
    if connection.vendor == "postgresql":
        options["connect_timeout"] = whole
        options["tcp_user_timeout"] = int(seconds * 1000)
    elif connection.vendor == "mysql":
        for name in ("connect_timeout", "read_timeout", "write_timeout"):
            options[name] = whole
    elif connection.vendor == "sqlite":
        options["timeout"] = seconds
        # A transaction that begins with a read can fail at its first write without
        # waiting; the bookkeeper's begin with the write lock.
        options["transaction_mode"] = "IMMEDIATE"

    def limit_session(sender: Any, connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            for statement in _session_limits(connection, seconds):
                cursor.execute(statement)

    connection_created.connect(limit_session, weak=False)


def _session_limits(connection: Any, seconds: float) -> list[str]:
    milliseconds, whole = int(seconds * 1000), max(1, int(seconds))
    if connection.vendor == "postgresql":
        return [
            f"SET statement_timeout = {milliseconds}",
            f"SET lock_timeout = {milliseconds}",
        ]
    if connection.vendor == "mysql":
        limits = [f"SET SESSION innodb_lock_wait_timeout = {whole}"]
        if connection.mysql_is_mariadb:
            limits.append(f"SET SESSION max_statement_time = {seconds:.3f}")
        return limits
    return []


def _silence_model_signals() -> None:
    """Disconnect every receiver of the models' signals in this process.

    They are the user's code, which must not run here; the statements are the same.
    """
    for signal in vars(model_signals).values():
        if isinstance(signal, model_signals.ModelSignal):
            with signal.lock:
                signal.receivers.clear()
                signal.sender_receivers_cache.clear()
