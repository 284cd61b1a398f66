"""What does a task's process do? Become the project, find the function, call it.

Called by dotted name from the process's first code, `supervisor/entry.py`.
"""

import json
import logging
from datetime import timedelta
from typing import Any, Protocol

import django
from django.conf import settings
from django.db import connections
from django.dispatch import Signal

from . import exceptions, signals

logger = logging.getLogger("background_task.tasks")

# What a process must have of the one that started it, whatever the settings say: under
# Django's test runner they name the real database.
_WHERE = ("NAME", "HOST", "PORT", "USER", "PASSWORD")


class Context(Protocol):
    """What `supervisor/entry.py` tells a target about its try."""

    claim: str
    deadline: float | None
    stop_with: Any


def environment() -> dict[str, Any]:
    """Return what another process needs to work on the same databases as this one."""
    databases: dict[str, dict[str, Any]] = {}
    for alias in connections:
        effective = connections[alias].settings_dict
        databases[alias] = {
            key: value if value is None else str(value)
            for key in _WHERE
            if (value := effective.get(key, "")) is not None
        }
    return {"databases": databases}


def set_up(environment: dict[str, Any]) -> None:
    """Set Django up, on the databases of the process that this one was started by."""
    for alias, where in environment.get("databases", {}).items():
        database = settings.DATABASES[alias]
        database.update(where)
        # A pool would open connections of its own for a process that needs one.
        database.get("OPTIONS", {}).pop("pool", None)
    django.setup()


def prepare(environment: dict[str, Any]) -> None:
    """Make this process fit to run a task: set Django up and find the tasks."""
    set_up(environment)
    from .tasks import autodiscover

    autodiscover()


def discover() -> dict[str, Any]:
    """Return the tasks' names with their decorators' limits, and who listens."""
    from .tasks import tasks

    return {
        "names": {
            name: {
                "max_run_time": _plain(proxy.max_run_time),
                "memory_limit": _plain(proxy.memory_limit),
            }
            for name, proxy in tasks._tasks.items()
        },
        "listeners": [
            name
            for name, signal in vars(signals).items()
            if isinstance(signal, Signal) and signal.receivers
        ],
    }


def execute(args: dict[str, Any], context: Context) -> None:
    """Run one task: its `name` and its `params` as they are in its row.

    Raises what the task raises. `task_started`, and `task_error` for what was raised,
    are sent from here; everything else is sent after the end has been recorded.
    """
    context.stop_with = _stop_with
    try:
        logger.info("Running %s", args["title"])
        signals.broadcast(signals.task_started, _task_model())
        _call(args)
    except (Exception, SystemExit) as error:
        _tell_error(args["id"], error)
        raise
    finally:
        connections.close_all()  # what is not committed by now is rolled back


def _call(args: dict[str, Any]) -> None:
    from .tasks import tasks

    proxy = tasks.get(args["name"])
    if proxy is None:
        raise exceptions.BackgroundTaskError(
            f"No function is registered as {args['name']!r} in this process"
        )
    positional, keywords = _params(args["params"])
    proxy.call(*positional, **keywords)


def _params(text: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        positional, keywords = json.loads(text)
        return list(positional), dict(keywords)
    except (ValueError, TypeError) as error:
        raise exceptions.BackgroundTaskError(
            "The row's task_params are not JSON of [arguments, keyword arguments]: "
            f"{error}"
        ) from error


def _tell_error(pk: int, error: BaseException) -> None:
    if signals.task_error.receivers:
        task = _task_model().objects.filter(pk=pk).first()
        signals.broadcast(signals.task_error, type(error), task=task)


def _task_model() -> Any:
    from .models import Task  # not before Django is set up

    return Task


def _stop_with(reason: str, text: str) -> BaseException:
    """Return what is raised in the task's main thread when it is asked to stop."""
    kinds: dict[str, type[BaseException]] = {
        "time": exceptions.TaskTimeout,
        "memory": exceptions.TaskOutOfMemory,
        "release": exceptions.TaskReleased,
    }
    return kinds.get(reason, exceptions.Stopped)(text)


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return (
        value if value is None or isinstance(value, int | float | str) else str(value)
    )
