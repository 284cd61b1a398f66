"""What does `@background` make of a function, and what does a call of it do?"""

import functools
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from django.db import models

from .exceptions import BackgroundTaskError
from .limits import parse_seconds
from .models import Task
from .policies import Policy
from .schedule import ScheduleForm, TaskSchedule

if TYPE_CHECKING:
    from .tasks import DBTaskRunner

P = ParamSpec("P")
R = TypeVar("R")

# What a call leaves to the decorator. None won't do: `queue=None` means no queue.
_NOT_SAID: Any = object()


class TaskProxy(Generic[P, R]):
    """What `@background` makes of a function: call it, and a task is saved.

    `now` and `task_function` are the function itself; `policy` is what the decorator
    says of its tries, `redact` which parameters' values are never shown.
    """

    def __init__(
        self,
        name: str,
        task_function: Callable[P, R],
        schedule: ScheduleForm,
        queue: str | None,
        remove_existing_tasks: bool,
        runner: "DBTaskRunner",
        *,
        policy: Policy,
        redact: tuple[str, ...] = (),
    ) -> None:
        functools.update_wrapper(self, task_function)
        self.name = name
        self.now = self.task_function = task_function
        self.runner = runner
        self.schedule = TaskSchedule.create(schedule)
        self.queue = queue
        self.remove_existing_tasks = remove_existing_tasks
        self.policy = policy
        self.redact = redact

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
        max_run_time: float | timedelta | None = _NOT_SAID,
        **kwargs: Any,
    ) -> Task | None:
        """Save a task that calls the function later, and return it.

        The named ones (`repeat` in seconds) are about the task and don't reach the
        function; all else does, and must be JSON. So does `max_run_time` (seconds or a
        timedelta) if the function has a parameter of this name. Returns None if the
        schedule's action found such a task waiting. Raises TypeError for arguments that
        the function does not take or that are not JSON, and for a schedule of an
        unknown form.
        """
        if max_run_time is not _NOT_SAID and self._takes("max_run_time"):
            kwargs["max_run_time"], max_run_time = max_run_time, _NOT_SAID
        more: dict[str, Any] = {}
        if max_run_time is not _NOT_SAID and max_run_time is not None:
            source = f"Task {self.name}: max_run_time of the call"
            more["max_run_time"] = parse_seconds(max_run_time, source)
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
            **more,
        )

    def _takes(self, name: str) -> bool:
        """Has the function a parameter of this name? 1.2.8 passed it on."""
        try:
            return name in inspect.signature(self.task_function).parameters
        except (TypeError, ValueError):
            return False

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
    and parameter.name != "max_run_time"
}


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def default_name(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return default_name(function.func)
    named = function if hasattr(function, "__name__") else type(function)
    return f"{named.__module__}.{named.__name__}"


def may_replace(former: TaskProxy[..., Any], proxy: TaskProxy[..., Any]) -> bool:
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
