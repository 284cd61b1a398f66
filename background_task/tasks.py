"""`@background`: functions become tasks; and the runner that runs them in-process."""

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from asgiref.sync import async_to_sync
from django.db import (
    Error,
    InterfaceError,
    OperationalError,
    connections,
    models,
    router,
    transaction,
)
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from . import books, retries, signals
from .exceptions import BackgroundTaskError, InvalidTaskError, traceback_text
from .models import Task
from .settings import app_settings
from .signals import broadcast

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

When = int | float | timedelta | datetime


class TaskSchedule:
    """When a task runs, how urgent it is, and what happens if it is there already.

    `run_at` is a moment, or a time from now: a timedelta, or a number of seconds.
    `action` is one of SCHEDULE (another row), RESCHEDULE_EXISTING (move a waiting
    row of the same name and arguments) and CHECK_EXISTING (let it be). None means: not
    said. Raises TypeError for other kinds of `run_at`.
    """

    SCHEDULE = 0
    RESCHEDULE_EXISTING = 1
    CHECK_EXISTING = 2

    def __init__(
        self,
        run_at: When | None = None,
        priority: int | None = None,
        action: int | None = None,
    ) -> None:
        self._run_at = _checked_when(run_at)
        self._priority = priority
        self._action = action

    @classmethod
    def create(cls, schedule: Any) -> "TaskSchedule":
        """Return a TaskSchedule of any form in which a schedule may be given.

        None, seconds, a timedelta, a datetime, a dict with `run_at`, `priority` and
        `action`, or a TaskSchedule. Raises TypeError for anything else.
        """
        if isinstance(schedule, TaskSchedule):
            return schedule
        if isinstance(schedule, Mapping):
            said = {name: schedule.get(name) for name in _SCHEDULE_KEYS}
            return TaskSchedule(**said)
        return TaskSchedule(run_at=schedule)

    def merge(self, schedule: "TaskSchedule") -> "TaskSchedule":
        """Return this schedule, with what it does not say taken from another."""
        return TaskSchedule(
            run_at=schedule._run_at if self._run_at is None else self._run_at,
            priority=schedule._priority if self._priority is None else self._priority,
            action=schedule._action if self._action is None else self._action,
        )

    @property
    def run_at(self) -> datetime:
        """The moment; counted from now if a time was given, now if nothing was."""
        if isinstance(self._run_at, datetime):
            return self._run_at
        if isinstance(self._run_at, timedelta):
            return timezone.now() + self._run_at
        return timezone.now() + timedelta(seconds=self._run_at or 0)

    @property
    def priority(self) -> int:
        """The priority; 0 if it was not said."""
        return self._priority or 0

    @property
    def action(self) -> int:
        """The action; SCHEDULE if it was not said."""
        return self._action or TaskSchedule.SCHEDULE

    def __repr__(self) -> str:
        return f"TaskSchedule(run_at={self._run_at}, priority={self._priority})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskSchedule):
            return NotImplemented
        return self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())

    def _said(self) -> tuple[When | None, int | None, int | None]:
        return self._run_at, self._priority, self._action


# Whatever `TaskSchedule.create` takes.
ScheduleForm = When | Mapping[str, Any] | TaskSchedule | None

_SCHEDULE_KEYS = ("run_at", "priority", "action")


def _checked_when(when: Any) -> When | None:
    # A bool is an int, and a date is none of these: both are mistakes here.
    known = when is None or isinstance(when, int | float | timedelta | datetime)
    if known and not isinstance(when, bool):
        return cast("When | None", when)
    raise TypeError(
        f"A schedule is seconds, a timedelta, a datetime, a dict with any of "
        f"{', '.join(_SCHEDULE_KEYS)}, or a TaskSchedule, not {when!r}"
    )


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
            if action != TaskSchedule.SCHEDULE and _exists(task, action, queue):
                return None
            task.save()
        signals.task_created.send(sender=self.__class__, task=task)
        return task

    def get_task_to_run(self, tasks: "Tasks", queue: str | None = None) -> Task | None:
        """Claim the next task that `tasks` knows; None if there is none to be had."""
        try:
            return self.claim_next(tasks, [queue] if queue else [])
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

    def claim_next(self, tasks: "Tasks", queues: Sequence[str]) -> Task | None:
        """Claim the next task of these queues, or of any if none is named.

        None if there is none to be had. Raises OperationalError, having logged it,
        while the database is away.
        """
        try:
            return self._claim_next(tasks, queues)
        except OperationalError:
            logger.warning("Failed to retrieve tasks. Database unreachable.")
            _forget_broken_connections()
            raise

    def _claim_next(self, tasks: "Tasks", queues: Sequence[str]) -> Task | None:
        available = Task.objects.find_available().filter(
            task_name__in=list(tasks._tasks)
        )
        if queues:
            available = available.filter(queue__in=queues)
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
        return bool(existing.update(run_at=task.run_at, priority=task.priority))
    if action == TaskSchedule.CHECK_EXISTING:
        return existing.exists()
    return False


# What a call leaves to the decorator. None won't do: `queue=None` means no queue.
_NOT_SAID: Any = object()


class TaskProxy(Generic[P, R]):
    """What `@background` makes of a function: call it, and a task is saved.

    `now` and `task_function` are the function itself. `max_run_time` (seconds or a
    timedelta) and `memory_limit` (bytes or a text like "512M") are the decorator's
    limits as they were given; None: the settings'.
    """

    def __init__(
        self,
        name: str,
        task_function: Callable[P, R],
        schedule: ScheduleForm,
        queue: str | None,
        remove_existing_tasks: bool,
        runner: DBTaskRunner,
        *,
        max_run_time: float | timedelta | None = None,
        memory_limit: int | str | None = None,
    ) -> None:
        functools.update_wrapper(self, task_function)
        self.name = name
        self.now = self.task_function = task_function
        self.runner = runner
        self.schedule = TaskSchedule.create(schedule)
        self.queue = queue
        self.remove_existing_tasks = remove_existing_tasks
        self.max_run_time = max_run_time
        self.memory_limit = memory_limit

    def __call__(
        self,
        *args: Any,
        schedule: ScheduleForm = None,
        priority: int = _NOT_SAID,
        queue: str | None = _NOT_SAID,
        verbose_name: str | None = None,
        creator: models.Model | None = None,
        repeat: int | None = None,
        repeat_until: datetime | None = None,
        remove_existing_tasks: bool = _NOT_SAID,
        **kwargs: Any,
    ) -> Task | None:
        """Save a task that calls the function later, and return it.

        The named ones (`repeat` in seconds) are about the task and don't reach the
        function; all else does, and must be JSON. Returns None if the schedule's
        action found such a task waiting. Raises TypeError for arguments that the
        function does not take or that are not JSON, and for a schedule of an unknown
        form.
        """
        self._check_call(args, kwargs)
        said = TaskSchedule.create(schedule).merge(self.schedule)
        if priority is _NOT_SAID:
            priority = said.priority
        if queue is _NOT_SAID:
            queue = self.queue
        if remove_existing_tasks is _NOT_SAID:
            remove_existing_tasks = self.remove_existing_tasks
        return self.runner.schedule(
            self.name,
            args,
            kwargs,
            said.run_at,
            priority=priority,
            action=said.action,
            queue=queue,
            verbose_name=verbose_name,
            creator=creator,
            repeat=repeat,
            repeat_until=repeat_until,
            remove_existing_tasks=remove_existing_tasks,
        )

    def _check_call(self, args: Any, kwargs: Any) -> None:
        """Raise TypeError, as a call would, for what the function can't be called with.

        A wrapper is asked for its own signature, since it may add arguments.
        """
        try:
            signature = inspect.signature(self.task_function, follow_wrapped=False)
        except (TypeError, ValueError):  # nobody knows, as of some built-in functions
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            why = f"{self.name}(): {error}"
            for name in _OWN_KEYWORDS & set(signature.parameters):
                if signature.parameters[name].default is inspect.Parameter.empty:
                    why += (
                        f" ({name}= is about the task, and does not reach the function)"
                    )
            raise TypeError(why) from None

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function in this process; an `async def` runs to its end."""
        if self.task_function is None:
            raise BackgroundTaskError("Function is None, can't execute!")
        result = self.task_function(*args, **kwargs)
        if inspect.iscoroutine(result):
            return async_to_sync(_awaited)(result)
        return result

    def __str__(self) -> str:
        return f"TaskProxy({self.name})"


# What a call says about the task, and no function is given.
_OWN_KEYWORDS = {
    parameter.name
    for parameter in inspect.signature(TaskProxy.__call__).parameters.values()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


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
        memory_limit: int | str | None = None,
    ) -> Callable[[Callable[P, R]], TaskProxy[P, R]]: ...

    def background(
        self,
        name: Any = None,
        schedule: ScheduleForm = None,
        queue: str | None = None,
        remove_existing_tasks: bool = False,
        *,
        max_run_time: float | timedelta | None = None,
        memory_limit: int | str | None = None,
    ) -> Any:
        """Turn a function, or any callable, into a task; with or without arguments.

        `name` defaults to the function's module and name; `schedule` is what a call
        does not say itself (see `TaskSchedule.create`). `max_run_time` (seconds or a
        timedelta) and `memory_limit` (bytes or a text like "512M") limit each try
        under a supervisor. Raises BackgroundTaskError if another function has the name.
        """
        if callable(name):
            return self.background()(name)

        def decorate(function: Callable[P, R]) -> TaskProxy[P, R]:
            proxy = TaskProxy(
                name or _default_name(function),
                function,
                schedule,
                queue,
                remove_existing_tasks,
                self._runner,
                max_run_time=max_run_time,
                memory_limit=memory_limit,
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
        if former is not None and not _may_replace(former, proxy):
            raise BackgroundTaskError(
                f"Two functions want the task name {proxy.name!r}: "
                f"{former.task_function!r} and {proxy.task_function!r}. "
                f"Give one of them another with @background(name=...)."
            )
        self._tasks[proxy.name] = proxy


def _default_name(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return _default_name(function.func)
    named = function if hasattr(function, "__name__") else type(function)
    return f"{named.__module__}.{named.__name__}"


def _may_replace(former: TaskProxy[..., Any], proxy: TaskProxy[..., Any]) -> bool:
    """Return whether both are one function, imported or defined again.

    Functions defined inside functions come and go, as those of tests do: the last one
    wins, as it did upstream.
    """
    before, after = _origin(former.task_function), _origin(proxy.task_function)
    return before == after or "<locals>" in str(before)


def _origin(function: Callable[..., Any]) -> Any:
    if isinstance(function, functools.partial):
        return _origin(function.func), function.args, function.keywords
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    return function


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


def _due_row(proxy: TaskProxy[..., Any], args: Any, kwargs: Any) -> Task | None:
    alike = Task.objects.get_task(proxy.name, args, kwargs)
    return alike.find_available(proxy.queue).first()


def _claimed(task: Task, worker_name: str) -> Task | None:
    return task if task.locked_by else task.lock(worker_name)


def _record_success(task: Task | None) -> None:
    if task is None:
        return
    _roll_back()
    with _abandoned_if_refused(task):
        _complete(task)


def _complete(task: Task) -> None:
    entry = books.succeed(books.Claim.of(task))
    if entry is None:
        logger.warning("Task %s changed hands: success not recorded", task.with_id())
        return
    books.announce(entry)
    logger.info("Ran task and deleting %s", f"task {task.with_id()}")


def _record_failure(
    proxy: TaskProxy[..., Any], task: Task | None, error: BaseException
) -> None:
    _roll_back()
    if task is None:
        logger.error("Calling %s failed", proxy, exc_info=error)
        return
    text = "Failed for good: %s" if _is_final(task, error) else "Rescheduling %s"
    logger.error(text, f"task {task.with_id()}", exc_info=error)
    broadcast(signals.task_error, type(error), task=task)
    with _abandoned_if_refused(task):
        task.reschedule(type(error), error, error.__traceback__)


def _is_final(task: Task, error: BaseException) -> bool:
    most = app_settings.BACKGROUND_TASK_MAX_ATTEMPTS
    is_last = retries.exhausted(task.attempts + 1, most)
    return is_last or isinstance(error, InvalidTaskError)


@contextmanager
def _abandoned_if_refused(task: Task) -> Iterator[None]:
    """Abandon a task if what is written about it is refused; an outage is raised."""
    claim = books.Claim.of(task)
    try:
        yield
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        logger.error(
            "Abandoning task %s: its end is refused", task.with_id(), exc_info=error
        )
        books.abandon(claim, traceback_text(error))


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
