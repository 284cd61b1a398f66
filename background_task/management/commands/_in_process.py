"""`process_tasks --in-process`: one task at a time, here, with no supervisor."""

import contextlib
import logging
import math
import os
import random
import select
import signal
import traceback
from types import FrameType
from typing import Any

from django.core.management.base import CommandError
from django.db import Error, OperationalError, connections, router

from background_task import claims, control, streams
from background_task.current import current_task
from background_task.models import CompletedTask, Control, Task
from background_task.outages import is_passing
from background_task.supervisor import clock
from background_task.supervisor.desk import UNKNOWN_NAMES, UNKNOWN_QUEUES
from background_task.supervisor.queue import paused_text
from background_task.supervisor.stopping import EX_UNWRITTEN
from background_task.supervisor.wakeups import Wakeups
from background_task.tables import look_for_columns, migrate_text
from background_task.tasks import autodiscover, tasks
from background_task.utils import TTW_SLOW

from ._asked import Asked

logger = logging.getLogger("background_task.tasks")
command_logger = logging.getLogger("background_task.management.commands.process_tasks")


EX_STOPPED = 130  # by a second Ctrl-C, as shells have it


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
        self._wakeups = _Wakeups()
        self._served = asked.served

    def run(self) -> None:
        """Run what is due until the time is over or a signal comes."""
        try:
            with streams.logged(wanted=self._log_std):
                self._run()
        except KeyboardInterrupt:
            raise CommandError(
                "Stopped in the middle of a task, which was given back",
                returncode=EX_STOPPED,
            ) from None

    def _run(self) -> None:
        _check_tables()
        _import_tasks()
        if self._reclaim_pids:
            claims.reclaim_pids()
        ends_at = clock.now() + self._duration if self._duration > 0 else math.inf
        self._tell_of_unknown_queues()
        with self._wakeups:
            while not self._told_to_stop() and clock.now() < ends_at:
                if self._run_next():
                    pause = random.uniform(*TTW_SLOW) if self._pauses else 0.0
                elif self._until_empty:
                    self._tell_of_pauses()
                    return
                else:
                    command_logger.debug("waiting for tasks")
                    pause = self._sleep
                left = max(0.0, ends_at - clock.now())
                select.select([self._wakeups], [], [], min(pause, left))

    def _run_next(self) -> bool:
        """Run the next task of all the queues; return whether there was one."""
        try:
            task = tasks._runner.claim_next(tasks, self._served, heeds_pauses=True)
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
        except Error as error:
            if not is_passing(connections[router.db_for_write(Task)], error):
                raise
            raise CommandError(
                f"Could not write the end of task {task.with_id()}, which stays locked "
                f"by {task.locked_by}: {error}",
                returncode=EX_UNWRITTEN,
            ) from error
        return True

    def _told_to_stop(self) -> bool:
        """Take in which signals have come: two of them change the pace only."""
        stop = False
        for number in self._wakeups.take():
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
            names = claims.unknown_names(list(tasks._tasks), self._served)
        except OperationalError:
            return  # the runner has told of it
        if names := names - self._told_of:
            self._told_of |= names
            logger.warning(UNKNOWN_NAMES, ", ".join(sorted(names)))

    def _tell_of_pauses(self) -> None:
        targets = list(control.paused().values_list("target", flat=True))
        if targets:
            text = "What is paused was left alone: %s"
            logger.warning(text, paused_text(targets))

    def _tell_of_unknown_queues(self) -> None:
        named = {proxy.queue for proxy in tasks._tasks.values()}
        with contextlib.suppress(OperationalError):  # the runner tells of an outage
            if queues := claims.unused_queues(self._served.names - named):
                logger.warning(UNKNOWN_QUEUES, ", ".join(sorted(queues)))


class _Wakeups(Wakeups):
    """Heeds a signal between two tasks, and says so if one runs.

    A second one, unless it is about the pace, interrupts the task.
    """

    def __init__(self) -> None:
        heeded = [signal.SIGTERM, signal.SIGINT]
        self._pace: list[int] = []
        if os.name == "posix":
            heeded += [signal.SIGHUP, signal.SIGTSTP]
            self._pace = [signal.SIGUSR1, signal.SIGUSR2]
        super().__init__([*heeded, *map(signal.Signals, self._pace)])
        self._warned: int | None = None  # of which task's end

    def _leave_note(self, number: int, frame: FrameType | None) -> None:
        super()._leave_note(number, frame)
        running = current_task.id  # while its function runs
        if running is None or number in self._pace:
            return
        if self._warned == running:
            raise KeyboardInterrupt
        self._warned = running
        # Not by a log or a stream: the task may be in the middle of writing to it.
        name = signal.Signals(number).name
        text = f"{name}: the task that runs is finished first; a second one stops it\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def _import_tasks() -> None:
    """Raise CommandError with the traceback if the project's tasks can't be."""
    try:
        autodiscover()
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        raise CommandError(f"The project cannot be set up:\n{text}") from error


def _check_tables() -> None:
    """Raise CommandError if `migrate` was forgotten; an outage is waited for."""
    alias = router.db_for_write(Task)
    try:
        for model in (Task, CompletedTask, Control):
            look_for_columns(model, alias)
    except Error as error:
        if not is_passing(connections[alias], error):
            raise CommandError(migrate_text(alias, error)) from error
