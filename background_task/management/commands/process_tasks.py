"""`manage.py process_tasks`: options in, supervisor out."""

import difflib
import logging
import math
import os
import random
import select
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, InterfaceError, OperationalError, connections, router

from background_task import __version__, checks, claims, execution, streams, verbosity
from background_task.models import CompletedTask, Task
from background_task.outages import is_passing
from background_task.reloader import Reloader, end_with_parent
from background_task.settings import app_settings, setting_name
from background_task.tasks import autodiscover, tasks
from background_task.utils import TTW_SLOW

# Before anybody sets a title: setproctitle would otherwise write over the environment
# in which other processes look for a runner's mark.
os.environ.setdefault("SPT_NOENV", "1")

from background_task.supervisor import clock, processes
from background_task.supervisor.bookkeeper import UNKNOWN_NAMES, Bookkeeper, Books
from background_task.supervisor.database import look_for_columns, migrate_text
from background_task.supervisor.job import Project
from background_task.supervisor.launcher import Launcher
from background_task.supervisor.options import (
    ANNOUNCER,
    CLAIMED_AHEAD,
    LimitRules,
    OptionError,
    Options,
    parse_count,
    parse_memory,
    parse_seconds,
)
from background_task.supervisor.supervisor import EX_UNWRITTEN, Supervisor
from background_task.supervisor.wakeups import Wakeups

logger = logging.getLogger("background_task.tasks")
START_METHODS = "template", "spawn"

command_logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = (
        "Run the tasks that are due, each in a process of its own, until told to stop. "
        "SIGTERM, SIGINT and SIGHUP: claim no more, let what runs finish for the drain "
        "time, then stop it and give it back; a second one: at once. SIGTSTP: claim no "
        "more and wait for what runs. SIGUSR2: pause 0.5 to 1.5 s between claims; "
        "SIGUSR1: pause no more."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--duration",
            default=0,
            metavar="SECONDS",
            help="run for this long, then finish what runs; 0 or less: for ever",
        )
        parser.add_argument(
            "--sleep",
            default=5.0,
            metavar="SECONDS",
            help="the longest wait between two looks for tasks (default: 5)",
        )
        parser.add_argument(
            "--queue",
            action="append",
            metavar="NAME",
            help="only tasks of this queue; may be repeated (default: every queue)",
        )
        parser.add_argument(
            "--workers",
            metavar="N",
            help="how many tasks run at the same time (default: "
            "BACKGROUND_TASK_WORKERS, else 1)",
        )
        parser.add_argument(
            "--tasks-per-process",
            metavar="N",
            help="how many tasks a process runs, one after the other, before a new one "
            "takes its place (default: BACKGROUND_TASK_TASKS_PER_PROCESS, else 1)",
        )
        parser.add_argument(
            "--memory-limit",
            metavar="SIZE",
            help="the most that a task may hold with all its processes, such as 512M: "
            "a ceiling for every task, and the limit of those that have none",
        )
        parser.add_argument(
            "--start-method",
            metavar="METHOD",
            help="how a task's process begins: template (a fork of a process that has "
            "set the project up; default on Linux) or spawn (a fresh interpreter)",
        )
        parser.add_argument(
            "--drain-timeout",
            metavar="SECONDS",
            help="how long running tasks may go on after SIGTERM (default: "
            "BACKGROUND_TASK_DRAIN_TIMEOUT, else 25)",
        )
        parser.add_argument(
            "--until-empty",
            action="store_true",
            help="exit when nothing is due any more: for cron and CI",
        )
        parser.add_argument(
            "--in-process",
            action="store_true",
            help="run the tasks one by one in this very process, without a supervisor, "
            "limits or a lease: a task that takes longer than MAX_RUN_TIME may be "
            "started again by another runner, and one whose runner was killed waits "
            "for so long; for tests and debugging",
        )

        parser.add_argument(
            "--log-std",
            action="store_true",
            help="log what tasks print: stdout at INFO, stderr at ERROR",
        )
        parser.add_argument(
            "--dev",
            action="store_true",
            help="start again when the code of an installed app changes",
        )
        parser.add_argument(
            "--reclaim-pids",
            action="store_true",
            help="unlock, at once, what a runner of 1.2.8 or an in-process runner has "
            "locked by its bare pid; only when no such runner is left, on any host",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise CommandError(
                "process_tasks handles signals and starts processes: call it from the "
                "main thread of a process, or use background_task.tasks.tasks."
                "run_next_task() here."
            )
        try:
            with verbosity.applied(options["verbosity"]):
                self._run(options)
        except OptionError as error:
            raise CommandError(str(error)) from error

    def _run(self, options: dict[str, Any]) -> None:
        end_with_parent(processes.signal_at_parents_death)
        _check_settings()
        asked = _asked(options)  # refused before anything starts
        if options["dev"]:
            sys.exit(Reloader(self._say).run())
        why = None if options["in_process"] else _why_in_process()
        if why and options["verbosity"]:
            self.stderr.write(f"Running the tasks in this process: {why}")
        if why or asked.supervision is None:
            InProcess(options, asked).run()
        else:
            self._supervise(options, asked, asked.supervision)

    def _say(self, text: str) -> None:
        self.stderr.write(text)
        self.stderr.flush()

    def _supervise(
        self, options: dict[str, Any], asked: "Asked", supervision: "Supervision"
    ) -> None:
        settled, rules = supervision.options, supervision.rules
        project = Project(
            prepare="background_task.execution:prepare",
            discover="background_task.execution:discover",
            warm="background_task.execution:warm",
            announce="background_task.execution:announce",
            environment=execution.environment(
                log_std=options["log_std"],
                verbosity=options["verbosity"],
                reuse=settled.tasks_per_process > 1,
            ),
        )
        books = Books(
            queue="background_task.supervisor.database:DatabaseQueue",
            arguments={
                "lease": settled.lease,
                "queues": asked.queues,
                "reclaim_pids": options["reclaim_pids"],
                "rules": {name: getattr(rules, name) for name in rules.__slots__},
            },
            lease=settled.lease,
            sleep=asked.sleep,
        )
        if options["verbosity"]:
            streams.say(self.stdout, _first_line(supervision, asked.queues))
        _tell_of_sqlite(settled.workers)
        launcher = Launcher(project, supervision.start_method)
        supervisor = Supervisor(Bookkeeper(project, books), launcher, settled)
        status = supervisor.run()
        if status:
            raise CommandError(supervisor.failure, returncode=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a supervisor is to work, resolved once."""

    options: Options
    rules: LimitRules
    start_method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for, resolved once: times in seconds, no queues for all.

    `supervision` is None if no supervisor is wanted.
    """

    queues: list[str]
    sleep: float
    duration: float
    supervision: Supervision | None


class InProcess:
    """A loop over the in-process runner: no supervisor, no limits."""

    def __init__(self, options: dict[str, Any], asked: Asked) -> None:
        self._duration = asked.duration
        self._sleep = asked.sleep
        self._until_empty = options["until_empty"]
        self._log_std = options["log_std"]
        self._reclaim_pids = options["reclaim_pids"]
        self._pauses = False
        self._told_of: set[str] = set()
        self._queues = asked.queues

    def run(self) -> None:
        """Run what is due until the time is over or a signal comes."""
        with streams.logged(wanted=self._log_std):
            self._run()

    def _run(self) -> None:
        _check_tables()
        _import_tasks()
        if self._reclaim_pids:
            claims.reclaim_pids()
        ends_at = clock.now() + self._duration if self._duration > 0 else math.inf
        heeded = [signal.SIGTERM, signal.SIGINT]
        if os.name == "posix":
            heeded += [signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGUSR2]
        with Wakeups(heeded) as wakeups:
            while not self._told_to_stop(wakeups) and clock.now() < ends_at:
                if self._run_next():
                    pause = random.uniform(*TTW_SLOW) if self._pauses else 0.0
                elif self._until_empty:
                    return
                else:
                    command_logger.debug("waiting for tasks")
                    pause = self._sleep
                left = max(0.0, ends_at - clock.now())
                select.select([wakeups], [], [], min(pause, left))

    def _run_next(self) -> bool:
        """Run the next task of all the queues; return whether there was one."""
        try:
            task = tasks._runner.claim_next(tasks, self._queues)
        except OperationalError as error:
            if self._until_empty:  # nobody knows
                text = f"The queue is unavailable: {error}"
                raise CommandError(text, returncode=EX_UNWRITTEN) from error
            return False
        if task is None:
            self._tell_of_unknown_names()
            return False
        try:
            tasks._runner.run_task(tasks, task)
        except (OperationalError, InterfaceError) as error:
            raise CommandError(
                f"Could not write the end of task {task.with_id()}, which stays locked "
                f"by {task.locked_by}: {error}",
                returncode=EX_UNWRITTEN,
            ) from error
        return True

    def _told_to_stop(self, wakeups: Wakeups) -> bool:
        """Take in which signals have come: two of them change the pace only."""
        stop = False
        for number in wakeups.take():
            match signal.Signals(number).name:
                case "SIGUSR1":
                    self._pauses = False
                case "SIGUSR2":
                    self._pauses = True
                case _:
                    stop = True
        return stop

    def _tell_of_unknown_names(self) -> None:
        """Warn, once for each, of due tasks that nobody here can run."""
        try:
            names = claims.unknown_names(list(tasks._tasks), self._queues)
        except OperationalError:
            return  # the runner has told of it
        if names := names - self._told_of:
            self._told_of |= names
            logger.warning(UNKNOWN_NAMES, ", ".join(sorted(names)))


def _check_tables() -> None:
    """Raise CommandError if `migrate` was forgotten; an outage is waited for."""
    alias = router.db_for_write(Task)
    try:
        for model in (Task, CompletedTask):
            look_for_columns(model, alias)
    except Error as error:
        if not is_passing(connections[alias], error):
            raise CommandError(migrate_text(alias, error)) from error


def _tell_of_sqlite(workers: int) -> None:
    """Warn if tasks that run side by side would lock one another out."""
    alias = router.db_for_write(Task)
    options = connections[alias].settings_dict["OPTIONS"]
    mode = str(options.get("transaction_mode")).upper()
    if workers < 2 or connections[alias].vendor != "sqlite":
        return
    if mode not in ("IMMEDIATE", "EXCLUSIVE"):
        logger.warning(
            'With %s workers on SQLite tasks may fail with "database is locked". '
            'Set "transaction_mode": "IMMEDIATE" and "timeout": 20 in '
            'DATABASES["%s"]["OPTIONS"], so that their transactions wait their turn.',
            workers,
            alias,
        )


def _import_tasks() -> None:
    """Raise CommandError with the traceback if the project's tasks can't be."""
    try:
        autodiscover()
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        raise CommandError(f"The project cannot be set up:\n{text}") from error


def _queues(names: str | list[str] | None) -> list[str]:
    """Return the queues to serve; none means every queue."""
    queues = [names] if isinstance(names, str) else list(names or [])
    if any(not name.strip() for name in queues):
        raise OptionError("--queue has an empty name: leave it out for every queue")
    return queues


def _check_settings() -> None:
    """Refuse what would stop the runner when it records its first failure."""
    for message in checks.check_settings():
        raise OptionError(f"{message.msg} {message.hint}")


def _asked(options: dict[str, Any]) -> Asked:
    """Resolve the options, or raise OptionError for one that cannot be."""
    return Asked(
        queues=_queues(options["queue"]),
        sleep=parse_seconds(options["sleep"], "--sleep"),
        duration=_duration(options),
        supervision=_supervision(options),
    )


def _supervision(options: dict[str, Any]) -> Supervision | None:
    if options["in_process"]:
        _refuse_limits(options)
        return None
    rules = _rules(options)
    return Supervision(
        options=_options(options, rules),
        rules=rules,
        start_method=_start_method(options),
    )


def _options(options: dict[str, Any], rules: LimitRules) -> Options:
    """Resolve what was asked for: the command line, else the settings."""
    workers, source = options.get("workers"), "--workers"
    if workers is None:
        workers, source = app_settings.workers, _workers_setting()
    most, most_source = options.get("tasks_per_process"), "--tasks-per-process"
    if most is None:
        most_source = "BACKGROUND_TASK_TASKS_PER_PROCESS"
        most = app_settings.BACKGROUND_TASK_TASKS_PER_PROCESS
    drain, drain_source = options.get("drain_timeout"), "--drain-timeout"
    if drain is None:
        drain_source = "BACKGROUND_TASK_DRAIN_TIMEOUT"
        drain = app_settings.BACKGROUND_TASK_DRAIN_TIMEOUT
    return Options(
        workers=parse_count(workers, source),
        ahead=_ahead(),
        tasks_per_process=parse_count(most, most_source),
        duration=_duration(options),
        until_empty=options["until_empty"],
        drain_timeout=parse_seconds(drain, drain_source, least=0),
        grace=_setting("BACKGROUND_TASK_GRACE", least=0),
        start_timeout=_setting("BACKGROUND_TASK_START_TIMEOUT"),
        lease=_setting("BACKGROUND_TASK_LEASE", least=1),
        announcer=replace(
            ANNOUNCER, memory=rules.limits({}, {}).memory, grace=rules.grace
        ),
    )


def _ahead() -> int:
    """What a killed runner held is lost: not where one try is all that a task has."""
    return 0 if app_settings.BACKGROUND_TASK_MAX_ATTEMPTS == 1 else CLAIMED_AHEAD


def _start_method(options: dict[str, Any]) -> str:
    method, source = options["start_method"], "--start-method"
    if method is None:
        source = "BACKGROUND_TASK_START_METHOD"
        method = app_settings.BACKGROUND_TASK_START_METHOD
    if method not in START_METHODS:
        raise OptionError(f"{source} is {method!r}: it must be one of {START_METHODS}")
    if method == "template" and sys.platform != "linux":
        raise OptionError(f"{source} is 'template', for Linux only: use 'spawn'")
    return str(method)


def _rules(options: dict[str, Any]) -> LimitRules:
    """Resolve the limits that do not depend on a task, and check those that do."""
    memory = app_settings.BACKGROUND_TASK_MEMORY_LIMIT
    ceiling = options.get("memory_limit")
    rules = LimitRules(
        seconds=_setting("MAX_RUN_TIME"),
        memory=None
        if memory is None
        else parse_memory(memory, "BACKGROUND_TASK_MEMORY_LIMIT"),
        memory_ceiling=None
        if ceiling is None
        else parse_memory(ceiling, "--memory-limit"),
        grace=_setting("BACKGROUND_TASK_GRACE", least=0),
    )
    _check_overrides(rules)
    return rules


def _check_overrides(rules: LimitRules) -> None:
    overrides: Any = app_settings.BACKGROUND_TASK_OVERRIDES
    known = {"max_run_time", "memory_limit"}
    if not isinstance(overrides, dict):
        raise OptionError("BACKGROUND_TASK_OVERRIDES must be a dict of dicts")
    for name, override in overrides.items():
        if not isinstance(override, dict) or set(override) - known:
            raise OptionError(
                f"BACKGROUND_TASK_OVERRIDES[{name!r}] is {override!r}: it must be a "
                f"dict with no other keys than {', '.join(sorted(known))}"
                f"{_meant(override, known)}"
            )
        rules.limits({}, override)


def _meant(override: Any, known: set[str]) -> str:
    """Say which limit was meant by each key that comes near to one."""
    if not isinstance(override, dict):
        return ""
    near = {
        key: difflib.get_close_matches(str(key), known, 1)
        for key in override
        if key not in known
    }
    return "".join(
        f"; {key}: did you mean {match[0]}?" for key, match in near.items() if match
    )


def _duration(options: dict[str, Any]) -> float:
    return parse_seconds(options["duration"], "--duration", least=-math.inf)


def _setting(name: str, least: float | None = None) -> float:
    return parse_seconds(getattr(app_settings, name), setting_name(name), least=least)


def _workers_setting() -> str:
    if app_settings.BACKGROUND_TASK_WORKERS is not None:
        return "BACKGROUND_TASK_WORKERS"
    return "BACKGROUND_TASK_ASYNC_THREADS"


def _refuse_limits(options: dict[str, Any]) -> None:
    for name in (
        "workers",
        "tasks_per_process",
        "memory_limit",
        "drain_timeout",
        "start_method",
    ):
        if options.get(name) is not None:
            raise OptionError(
                f"--{name.replace('_', '-')} does not go with --in-process, which runs "
                "one task at a time in this process and can limit nothing"
            )


def _why_in_process() -> str | None:
    """Say why no other process could see this one's tasks; None if it could."""
    connection = connections[router.db_for_write(Task)]
    if connection.in_atomic_block:
        return "a transaction is open, and nobody else sees what it has not committed"
    if connection.vendor == "sqlite" and _is_in_memory(connection):
        return "the database is in this process's memory"
    return None


def _is_in_memory(connection: Any) -> bool:
    return bool(connection.is_in_memory_db())


def _first_line(supervision: Supervision, queues: list[str]) -> str:
    options, rules = supervision.options, supervision.rules
    connection = connections[router.db_for_write(Task)]
    where = connection.settings_dict
    database = f"{connection.vendor} {where['NAME']}"
    if where.get("HOST"):
        database += f" on {where['HOST']}"
    memory = rules.memory if rules.memory_ceiling is None else rules.memory_ceiling
    parts = [
        f"django-background-tasks {__version__}",
        database,
        f"queues: {', '.join(queues)}" if queues else "every queue",
        f"{options.workers} worker{'s' if options.workers > 1 else ''}",
        *_reuse(options.tasks_per_process),
        supervision.start_method,
        f"MAX_RUN_TIME {rules.seconds:g} s",
        "no memory limit" if memory is None else f"memory limit {_size(memory)}",
        f"drain {options.drain_timeout:g} s, grace {options.grace:g} s",
    ]
    return "; ".join(parts)


def _reuse(tasks_per_process: int) -> list[str]:
    if tasks_per_process == 1:
        return []
    return [f"{tasks_per_process} tasks per process"]


def _size(memory: int) -> str:
    return f"{memory / 1024**2:g} MiB"
