"""`@background` and its registry; and the runner that runs tasks in-process."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any, Literal, overload

from django.db import (
    Error,
    OperationalError,
    connections,
    models,
    router,
    transaction,
)
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from . import books, control, logrecords, policies, redaction, retries, signals
from .current import current_task
from .exceptions import BackgroundTaskError, is_permanent, traceback_text
from .limits import SettingError
from .models import Task
from .outages import is_passing, say_no_values
from .policies import Policy
from .proxy import P, R, TaskProxy, default_name, may_replace
from .schedule import ScheduleForm, TaskSchedule
from .served import Served
from .signals import broadcast

# Upstream's names, wherever they are defined by now.
__all__ = [
    "DBTaskRunner",
    "TaskProxy",
    "TaskSchedule",
    "Tasks",
    "autodiscover",
    "background",
    "bg_runner",
    "logger",
    "tasks",
]

logger = logging.getLogger(__name__)

# Seconds to wait after a failed try.
Waits = float | timedelta | Sequence[float | timedelta]


class DBTaskRunner:
    """Put tasks into the database, and run them one at a time in this process."""

    @property
    def worker_name(self) -> str:
        """The name under which this process locks tasks: its pid, after a fork too."""
        return str(os.getpid())

    def schedule(
        self,
        task_name: str,
        args: Any,
        kwargs: Any,
        run_at: datetime | None = None,
        priority: int = 0,
        action: int = TaskSchedule.SCHEDULE,
        queue: str | None = None,
        verbose_name: str | None = None,
        creator: models.Model | None = None,
        repeat: int | None = None,
        repeat_until: datetime | None = None,
        remove_existing_tasks: bool = False,
        *,
        max_run_time: float | None = None,
    ) -> Task | None:
        """Save a task and return it, or None if `action` found one that waits.

        Sends `task_created`. Raises ValueError or TypeError, before anything is written
        or removed, for what could not be stored.
        """
        # What is removed must not be missing if its successor can't be saved.
        together = transaction.atomic(using=router.db_for_write(Task))
        with together if remove_existing_tasks else nullcontext():
            task = Task.objects.new_task(
                task_name,
                args,
                kwargs,
                run_at,
                priority,
                queue,
                verbose_name,
                creator,
                repeat,
                repeat_until,
                remove_existing_tasks,
            )
            task.max_run_time = max_run_time
            if action != TaskSchedule.SCHEDULE and _exists(task, action, queue):
                return None
            task.save()
        signals.task_created.send(sender=self.__class__, task=task)
        return task

    def get_task_to_run(self, tasks: "Tasks", queue: str | None = None) -> Task | None:
        """Claim the next task that `tasks` knows; None if there is none to be had."""
        try:
            served = Served(frozenset([queue] if queue else []))
            return self.claim_next(tasks, served)
        except OperationalError:
            return None

    def run_task(self, tasks: "Tasks", task: Task) -> None:
        """Run a task that was claimed."""
        logger.info("Running %s", f"task {task.with_id()}")
        tasks.run_task(task)

    def run_next_task(self, tasks: "Tasks", queue: str | None = None) -> bool:
        """Claim the next task and run it; return whether there was one."""
        task = self.get_task_to_run(tasks, queue)
        if task is None:
            return False
        self.run_task(tasks, task)
        return True

    def claim_next(
        self, tasks: "Tasks", served: Served, *, heeds_pauses: bool = False
    ) -> Task | None:
        """Claim the next task of these queues, or of those that nobody has paused.

        None if there is none to be had. Raises OperationalError, having logged it,
        while the database is away.
        """
        try:
            awake = control.awake(served) if heeds_pauses else served
            return self._claim_next(tasks, awake)
        except Error as error:
            connection = connections[router.db_for_write(Task)]
            known = isinstance(error, OperationalError)
            if not known and not is_passing(connection, error):
                raise
            logger.warning("Failed to retrieve tasks. Database unreachable.")
            _forget_broken_connections()
            if not connection.in_atomic_block:
                connection.close()  # a session that is read-only would stay so
            if known:
                raise
            raise OperationalError(*error.args) from error

    def _claim_next(self, tasks: "Tasks", served: Served) -> Task | None:
        if served.nothing:
            return None
        known = list(tasks._tasks)
        available = Task.objects.find_available().exactly("task_name", known)
        available = available.of_queues(served)
        lost: list[int] = []
        # A few at a time, since others may claim the first ones before this one does.
        while candidates := list(available.exclude(pk__in=lost)[:5]):
            for candidate in candidates:
                claimed = candidate.lock(self.worker_name)
                if claimed is not None:
                    return claimed
                lost.append(candidate.pk)
        return None


def _exists(task: Task, action: int, queue: str | None) -> bool:
    """Do what `action` says to the waiting tasks like `task`; return if there are."""
    existing = Task.objects.unlocked(timezone.now())
    existing = existing.filter(task_hash=task.task_hash, failed_at=None)
    if queue:
        existing = existing.filter(queue=queue)
    if action == TaskSchedule.RESCHEDULE_EXISTING:
        changes: dict[str, Any] = {
            "run_at": task.run_at,
            "repeat_from": None,
            "priority": task.priority,
        }
        if task.max_run_time is not None:
            changes["max_run_time"] = task.max_run_time
        return bool(existing.update(**changes))
    if action == TaskSchedule.CHECK_EXISTING:
        return existing.exists()
    return False


def _classes(errors: Any) -> tuple[type[BaseException], ...]:
    """Return exceptions as a tuple; raise SettingError for what is none."""
    classes = errors if isinstance(errors, tuple) else (errors,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise SettingError(
                f"dont_retry_on of @background has {one!r}: it must be an exception "
                "class, or a tuple of them"
            )
    return classes


class Tasks:
    """A registry of tasks by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskProxy[..., Any]] = {}
        self._runner = DBTaskRunner()

    @overload
    def background(self, name: Callable[P, R], /) -> TaskProxy[P, R]: ...

    @overload
    def background(
        self,
        name: str | None = None,
        schedule: ScheduleForm = None,
        queue: str | None = None,
        remove_existing_tasks: bool = False,
        *,
        max_run_time: float | timedelta | None = None,
        stall_timeout: float | timedelta | None = None,
        memory_limit: int | str | None = None,
        hard_memory: bool | None = None,
        on_timeout: Literal["retry", "fail"] | None = None,
        on_memory: Literal["retry", "fail"] | None = None,
        max_attempts: int | None = None,
        backoff: Waits | None = None,
        dont_retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        redact: Collection[str] = (),
    ) -> Callable[[Callable[P, R]], TaskProxy[P, R]]: ...

    def background(
        self,
        name: Any = None,
        schedule: ScheduleForm = None,
        queue: str | None = None,
        remove_existing_tasks: bool = False,
        *,
        max_run_time: float | timedelta | None = None,
        stall_timeout: float | timedelta | None = None,
        memory_limit: int | str | None = None,
        hard_memory: bool | None = None,
        on_timeout: Literal["retry", "fail"] | None = None,
        on_memory: Literal["retry", "fail"] | None = None,
        max_attempts: int | None = None,
        backoff: Waits | None = None,
        dont_retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        redact: Collection[str] = (),
    ) -> Any:
        """Turn a function, or any callable, into a task; with or without arguments.

        `name` defaults to the function's module and name; `schedule` is what a call
        does not say itself (see `TaskSchedule.create`). Under a supervisor each try is
        limited: `max_run_time` and `stall_timeout`, without any progress, are seconds
        or a timedelta, `memory_limit` is bytes or a text like "512M"; with
        `hard_memory` more of it raises MemoryError. `on_timeout` and `on_memory` say
        whether what is stopped is tried again. `max_attempts`, `backoff` (seconds, or a
        list of them for one try after the other) and `dont_retry_on` (exceptions) are
        about failed tries. `redact` names parameters whose values are never shown, such
        as a password. Raises BackgroundTaskError if another function has the name, and
        SettingError (a ValueError) for what cannot be.
        """
        if callable(name):
            return self.background()(name)
        policy = Policy(
            max_run_time=max_run_time,
            stall_timeout=stall_timeout,
            memory_limit=memory_limit,
            hard_memory=hard_memory,
            on_timeout=on_timeout,
            on_memory=on_memory,
            max_attempts=max_attempts,
            backoff=backoff,
            dont_retry_on=_classes(dont_retry_on),
        )
        hidden = redaction.parse(redact)

        def decorate(function: Callable[P, R]) -> TaskProxy[P, R]:
            proxy = TaskProxy(
                name or default_name(function),
                function,
                schedule,
                queue,
                remove_existing_tasks,
                self._runner,
                policy=policy,
                redact=hidden,
            )
            self._register(proxy)
            return proxy

        return decorate

    def get(self, name: str) -> TaskProxy[..., Any] | None:
        """Return the task of this name, or None if none was registered."""
        return self._tasks.get(name)

    def run_task(
        self, task_name: str | Task, args: Any = None, kwargs: Any = None
    ) -> None:
        """Run a task in this process.

        A Task is run and recorded; `args` and `kwargs` are then its own. With a name,
        a due row of that name and these arguments is run and recorded, and without one
        the function is just called. Raises KeyError for a name that is not registered.
        """
        if isinstance(task_name, Task):
            _run_here(self._tasks[task_name.task_name], task_name, (), {})
        else:
            _run_here(self._tasks[task_name], None, tuple(args or ()), kwargs or {})

    def run_next_task(self, queue: str | None = None) -> bool:
        """Run the next due task in this process; return whether there was one."""
        return self._runner.run_next_task(self, queue)

    def _register(self, proxy: TaskProxy[..., Any]) -> None:
        former = self._tasks.get(proxy.name)
        if former is not None and not may_replace(former, proxy):
            raise BackgroundTaskError(
                f"Two functions want the task name {proxy.name!r}: "
                f"{former.task_function!r} and {proxy.task_function!r}. "
                f"Give one of them another with @background(name=...)."
            )
        try:
            redaction.check(proxy.task_function, proxy.redact)
            policies.declare(proxy.name, proxy.policy.said())
        except SettingError as error:
            raise SettingError(f"Task {proxy.name}: {error}") from None
        self._tasks[proxy.name] = proxy


def bg_runner(
    proxy_task: TaskProxy[..., Any],
    task: Task | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Run a task's function in this process and record how it ended.

    With a Task its own arguments count. Without one a due row of the same name and
    arguments is run if there is any; otherwise the function is just called.
    """
    _run_here(proxy_task, task, args, kwargs)


def _run_here(
    proxy: TaskProxy[..., Any], task: Task | None, args: Any, kwargs: Any
) -> None:
    row = task or _due_row(proxy, args, kwargs)
    claimed = row and _claimed(row, proxy.runner.worker_name)
    if row and not claimed:
        logger.warning(
            "Not running task %s: it is held by another, or gone", row.with_id()
        )
        return
    broadcast(signals.task_started, Task)
    try:
        if claimed:
            args, kwargs = claimed.params()
        with _known_as(claimed):
            proxy.call(*args, **kwargs)
    except (Exception, SystemExit) as error:
        _record_failure(proxy, claimed, error)
    except BaseException:  # such as Ctrl-C: not the task's fault
        if claimed:
            books.release(books.Claim.of(claimed))
        raise
    else:
        _record_success(claimed)
    broadcast(signals.task_finished, Task)


@contextmanager
def _known_as(task: Task | None) -> Iterator[None]:
    """Have `current_task` name it meanwhile."""
    if task is None:
        yield  # what runs is what ran before
        return
    attempt = task.attempts + 1
    claim = f"{task.pk}@{task.locked_by}@{task.locked_at}"
    with (
        current_task.as_another(task.pk, attempt, claim),
        logrecords.carrying(logrecords.fields(task, attempt, task.locked_by)),
    ):
        yield


def _due_row(proxy: TaskProxy[..., Any], args: Any, kwargs: Any) -> Task | None:
    alike = Task.objects.get_task(proxy.name, args, kwargs)
    return alike.find_available(proxy.queue).first()


def _claimed(task: Task, worker_name: str) -> Task | None:
    return task if task.locked_by else task.lock(worker_name)


def _record_success(task: Task | None) -> None:
    if task is None:
        return
    _roll_back()
    with _abandoned_if_refused(task, succeeded=True):
        _complete(task)


def _complete(task: Task) -> None:
    claim = books.Claim.of(task)
    entry = books.succeed(claim)
    if entry is None:
        logger.warning("Task %s changed hands: success not recorded", task.with_id())
        return
    books.announce(entry)
    attempt = entry.task.attempts
    said = logrecords.fields(entry.task, attempt, claim.locked_by, "Succeeded")
    logger.info("Ran task and deleting %s", f"task {task.with_id()}", extra=said)


def _record_failure(
    proxy: TaskProxy[..., Any], task: Task | None, error: BaseException
) -> None:
    _roll_back()
    if task is None:
        logger.error("Calling %s failed", proxy, exc_info=error)
        return
    permanent = is_permanent(error) or isinstance(error, proxy.policy.dont_retry_on)
    most = policies.max_attempts(task.task_name)
    is_final = permanent or retries.exhausted(task.attempts + 1, most)
    text = "Failed for good: %s" if is_final else "Rescheduling %s"
    said = logrecords.fields(task, task.attempts + 1, task.locked_by, "Failed")
    logger.error(text, f"task {task.with_id()}", exc_info=error, extra=said)
    broadcast(signals.task_error, type(error), task=task)
    with _abandoned_if_refused(task, succeeded=False):
        task.reschedule(type(error), error, error.__traceback__, permanent=permanent)


@contextmanager
def _abandoned_if_refused(task: Task, *, succeeded: bool) -> Iterator[None]:
    """Abandon a task if what is written about it is refused; an outage is raised."""
    claim = books.Claim.of(task)
    try:
        yield
    except Exception as error:
        if is_passing(connections[router.db_for_write(Task)], error):
            raise
        say_no_values(error)
        logger.error(
            "Abandoning task %s: its end is refused", task.with_id(), exc_info=error
        )
        books.abandon(claim, traceback_text(error), succeeded=succeeded)


def _roll_back() -> None:
    """End the transactions that a task left open, or aborted: they are not ours."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or not connection.get_autocommit():
            continue  # the caller's, such as a test's
        try:
            connection.rollback()
        except Error:  # the server has gone; a new connection may find it
            connection.close()


def _forget_broken_connections() -> None:
    """Have the next query connect again, or an outage would outlast its cause."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


tasks = Tasks()
background = tasks.background


def autodiscover() -> None:
    """Import the `tasks` module of every installed app that has one.

    What such a module raises while it is imported, ImportErrors too, is raised.
    """
    autodiscover_modules("tasks")
