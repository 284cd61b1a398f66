"""`manage.py process_tasks`: options in, supervisor out."""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections, router

from background_task import __version__, execution, streams, verbosity
from background_task.limits import SettingError
from background_task.models import Task
from background_task.reloader import Reloader, end_with_parent
from background_task.served import Served

# Before anybody sets a title: setproctitle would otherwise write over the environment
# in which other processes look for a runner's mark.
os.environ.setdefault("SPT_NOENV", "1")

from background_task.supervisor import processes, spawning
from background_task.supervisor.bookkeeper import Bookkeeper, Books
from background_task.supervisor.heartbeat import Heartbeat
from background_task.supervisor.httpd import listen
from background_task.supervisor.job import Project
from background_task.supervisor.launcher import Launcher
from background_task.supervisor.monitor import Monitor
from background_task.supervisor.options import OptionError
from background_task.supervisor.outcome import size_text
from background_task.supervisor.pulse import Pulse
from background_task.supervisor.supervisor import Supervisor

from ._asked import Asked, Supervision, check_settings, resolve
from ._in_process import InProcess

logger = logging.getLogger("background_task.tasks")

EX_USAGE = 2  # an option or setting that cannot be; argparse has the same

# What the quick start recommends, too.
_SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;",
}


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
            metavar="NAME[:N]",
            help="only tasks of this queue; with :N it has N slots of its own, and the "
            "queues without share the others; may be repeated (default: "
            "BACKGROUND_TASK_QUEUES, else every queue)",
        )
        parser.add_argument(
            "--exclude-queue",
            action="append",
            metavar="NAME",
            help="no tasks of this queue; may be repeated (default: "
            "BACKGROUND_TASK_EXCLUDE_QUEUES)",
        )
        parser.add_argument(
            "--workers",
            metavar="N",
            help="how many tasks run at the same time; auto: one for each processor "
            "that the container may use (default: BACKGROUND_TASK_WORKERS, else 1, "
            "and the sizes of --queue)",
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
            "--max-run-time",
            metavar="SECONDS",
            help="the longest that a task may run: a ceiling for every task; it raises "
            "no limit",
        )
        parser.add_argument(
            "--memory-budget",
            metavar="SIZE",
            help="what the memory limits of the tasks that run may add up to, such as "
            "4G; auto: nine tenths of the container's memory, or of the host's "
            "(default: BACKGROUND_TASK_MEMORY_BUDGET, else none)",
        )
        parser.add_argument(
            "--start-method",
            metavar="METHOD",
            help="how a task's process begins: template (a fork of a process that has "
            "set the project up) or spawn (a fresh interpreter) (default: "
            "BACKGROUND_TASK_START_METHOD, else template on Linux, spawn elsewhere)",
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
            help="exit when nothing is due any more and nothing runs: for cron and CI. "
            "A retry that falls due later, and what is paused, is not waited for",
        )
        parser.add_argument(
            "--heartbeat-file",
            metavar="PATH",
            help="a file that is written every second or two, for `python -m "
            "background_task.probe PATH` (default: BACKGROUND_TASK_HEARTBEAT_FILE)",
        )
        parser.add_argument(
            "--probe-port",
            metavar="PORT",
            help="answer /livez, /readyz and /metrics by HTTP on this port; 0: on any "
            "that is free, which the log names",
        )
        parser.add_argument(
            "--probe-host",
            metavar="ADDRESS",
            help="listen there only, such as 127.0.0.1 (default: every interface)",
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

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a command line does; signals wait until the supervisor hears them.

        One that came before would be lost to PID 1. They stay blocked after the loop,
        when nothing follows but the exit, whose status is not to be theirs.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, spawning.GROUP_SIGNALS)
        super().run_from_argv(argv)

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
        except SettingError as error:
            raise CommandError(str(error), returncode=EX_USAGE) from error
        except OptionError as error:  # where or when it is started
            raise CommandError(str(error)) from error

    def _run(self, options: dict[str, Any]) -> None:
        end_with_parent(processes.signal_at_parents_death)
        check_settings()
        asked = self.resolve(options)  # refused before anything starts
        why = None if options["in_process"] else why_in_process()
        if asked.supervision is not None and not (why or options["dev"]):
            self._supervise(options, asked, asked.supervision)
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, spawning.GROUP_SIGNALS)
        if options["dev"]:
            sys.exit(Reloader(self._say).run())
        if why and options["verbosity"]:
            self.stderr.write(f"Running the tasks in this process: {why}")
        InProcess(options, asked).run()

    def _say(self, text: str) -> None:
        self.stderr.write(text)
        self.stderr.flush()

    def _supervise(
        self, options: dict[str, Any], asked: Asked, supervision: Supervision
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
                "slots": settled.workers,
                "queues": sorted(asked.served.queues),
                "excluded": sorted(filter(None, asked.served.excluded)),
                "pools": list(settled.pools),
                "reclaim_pids": options["reclaim_pids"],
                "rules": {name: getattr(rules, name) for name in rules.__slots__},
            },
            lease=settled.lease,
            sleep=asked.sleep,
            until_empty=settled.until_empty,
        )
        if options["verbosity"]:
            self.say_first(_first_line(supervision, asked.served))
        _tell_of_sqlite(settled.workers)
        with contextlib.ExitStack() as stack:
            supervisor = self.supervisor = Supervisor(
                Bookkeeper(project, self.books(books)),
                Launcher(project, supervision.start_method),
                settled,
                pulse=_pulse(supervision, project, stack),
            )
            status = supervisor.run()
        if status:
            raise CommandError(supervisor.failure, returncode=status)

    # What `task_run` does otherwise

    def resolve(self, options: dict[str, Any]) -> Asked:
        """Return what is asked for, by the options and by the settings."""
        return resolve(options)

    def books(self, books: Books) -> Books:
        """Return where the books are kept, which by default is as they are given."""
        return books

    def say_first(self, line: str) -> None:
        """Say what is about to be run, and how."""
        streams.say(self.stdout, line)


def _pulse(
    supervision: Supervision, project: Project, stack: contextlib.ExitStack
) -> Pulse:
    """Return what tells others that the runner is alive, as far as that is wanted."""
    path, port = supervision.heartbeat_file, supervision.probe_port
    monitor = None
    if port is not None:
        listening = stack.enter_context(listen(supervision.probe_host, port))
        logger.info("Probes are answered on port %s", listening.getsockname()[1])
        metrics = "background_task.metrics:metrics"
        monitor = Monitor(listening, metrics, project.environment)
    return Pulse(Heartbeat(path) if path else None, monitor)


def _tell_of_sqlite(workers: int) -> None:
    """Warn if tasks that run side by side would lock one another out."""
    alias = router.db_for_write(Task)
    options = connections[alias].settings_dict["OPTIONS"]
    mode = str(options.get("transaction_mode")).upper()
    if workers < 2 or connections[alias].vendor != "sqlite":
        return
    if mode not in ("IMMEDIATE", "EXCLUSIVE"):
        logger.warning(
            'With %s workers on SQLite tasks may fail with "database is locked". Have '
            "their transactions wait their turn, and reading go on meanwhile: "
            'DATABASES["%s"]["OPTIONS"] = %s',
            workers,
            alias,
            json.dumps(_SQLITE_OPTIONS),
        )


def why_in_process() -> str | None:
    """Say why no other process could see this one's tasks; None if it could."""
    connection = connections[router.db_for_write(Task)]
    if connection.in_atomic_block:
        return "a transaction is open, and nobody else sees what it has not committed"
    if connection.vendor == "sqlite" and _is_in_memory(connection):
        return "the database is in this process's memory"
    return None


def _is_in_memory(connection: Any) -> bool:
    return bool(connection.is_in_memory_db())


def _queues(served: Served, pools: Mapping[str, int]) -> str:
    """Say which queues are served, and the slots of those that have their own."""
    sized = [f"{name}:{size}" for name, size in pools.items()]
    shared = sorted(served.queues.difference(pools))
    excluded = ", ".join(sorted(filter(None, served.excluded)))
    text = f"queues: {', '.join([*sized, *shared])}" if served.queues else "every queue"
    return f"{text} but {excluded}" if excluded else text


def _first_line(supervision: Supervision, served: Served) -> str:
    options, rules = supervision.options, supervision.rules
    connection = connections[router.db_for_write(Task)]
    where = connection.settings_dict
    database = f"{connection.vendor} {where['NAME']}"
    if where.get("HOST"):
        database += f" on {where['HOST']}"
    held = rules.limits({}, {})
    parts = [
        f"django-background-tasks {__version__}",
        database,
        _queues(served, options.pools),
        f"{options.workers} worker{'s' if options.workers > 1 else ''}",
        *_reuse(options.tasks_per_process),
        supervision.start_method,
        f"MAX_RUN_TIME {held['seconds']:g} s",
        *_memory(held["memory"], options.memory_budget),
        f"drain {options.drain_timeout:g} s, grace {options.grace:g} s",
    ]
    return "; ".join(parts)


def _memory(limit: int | None, budget: int | None) -> list[str]:
    said = "no memory limit" if limit is None else f"memory limit {size_text(limit)}"
    return [said] if budget is None else [said, f"memory budget {size_text(budget)}"]


def _reuse(tasks_per_process: int) -> list[str]:
    if tasks_per_process == 1:
        return []
    return [f"{tasks_per_process} tasks per process"]
