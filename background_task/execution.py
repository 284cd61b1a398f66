"""What does a task's process do? Become the project, find the function, call it.

Called by dotted name from the process's first code, `supervisor/entry.py`.
"""

import json
import logging
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import django
from django.conf import settings
from django.core.cache import caches
from django.db import (
    Error,
    close_old_connections,
    connections,
    reset_queries,
    router,
)
from django.db.backends.signals import connection_created

from . import exceptions, logrecords, policies, signals, streams, verbosity
from .current import current_task
from .names import meant
from .outages import is_unreadable, say_no_values
from .sessions import session_of
from .settings import app_settings

logger = logging.getLogger("background_task.tasks")

# What a process must have of the one that started it, whatever the settings say: under
# Django's test runner they name the real database.
_WHERE = ("NAME", "HOST", "PORT", "USER", "PASSWORD")


# What is sent after the end of a try has been recorded.
_ANNOUNCED = (
    signals.task_error,
    signals.task_rescheduled,
    signals.task_successful,
    signals.task_failed,
    signals.task_finished,
)


class Context(Protocol):
    """What `supervisor/entry.py` tells a target about its try."""

    claim: str
    more: bool
    deadline: float | None
    stop_with: Any
    leave_with: Any

    permanent: bool

    def progress(
        self, done: int, total: int | None = None, message: str = ""
    ) -> None: ...

    def session(self, session: dict[str, Any]) -> None: ...

    def now(self) -> float: ...


_log_std = False  # does what tasks print go to the log?


def environment(
    *, log_std: bool = False, verbosity: int = 1, reuse: bool = False
) -> dict[str, Any]:
    """Return what another process needs to work on the same databases as this one.

    `reuse`: the processes of tasks run more than one, and keep their connections.
    """
    databases: dict[str, dict[str, Any]] = {}
    for alias in connections:
        effective = connections[alias].settings_dict
        databases[alias] = {
            key: value if value is None else str(value)
            for key in _WHERE
            if (value := effective.get(key, "")) is not None
        }
    return {
        "databases": databases,
        "log_std": log_std,
        "verbosity": verbosity,
        "reuse": reuse,
    }


def set_up(environment: dict[str, Any]) -> None:
    """Set Django up, on the databases of the process that this one was started by."""
    for alias, where in environment.get("databases", {}).items():
        database = settings.DATABASES[alias]
        database.update(where)
        # A pool would open connections of its own for a process that needs one.
        database.get("OPTIONS", {}).pop("pool", None)
    django.setup()
    _enable_loggers()
    verbosity.apply(environment.get("verbosity", 1))


def _enable_loggers() -> None:
    """Have our own loggers log again.

    LOGGING disables by default what exists before it is applied. In other processes
    ours come later; this one was begun by them.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "background_task":
            logging.getLogger(name).disabled = False


def prepare(environment: dict[str, Any]) -> None:
    """Make this process fit to run a task: set Django up and find the tasks."""
    global _log_std
    _log_std = environment.get("log_std", False)
    if environment.get("reuse"):
        _keep_connections()
    set_up(environment)
    from .tasks import autodiscover

    autodiscover()


def _keep_connections() -> None:
    """Have connections outlive a task, and be checked before the next one uses them.

    A project that says for how long they are to be kept is heeded.
    """
    for database in settings.DATABASES.values():
        database["CONN_HEALTH_CHECKS"] = True
        if not database.get("CONN_MAX_AGE"):  # 0, Django's default: for one request
            database["CONN_MAX_AGE"] = None


def discover() -> dict[str, Any]:
    """Return the tasks' names with what their decorators say, and if anybody listens.

    And whether tasks may be claimed ahead: not if one has a single try, since what a
    killed runner held is lost. And warnings, of settings that name no task.
    """
    from .tasks import tasks

    return {
        "names": {
            name: {**proxy.policy.said(), "queue": proxy.queue}
            for name, proxy in tasks._tasks.items()
        },
        "ahead": all(policies.max_attempts(name) > 1 for name in tasks._tasks),
        "listens": any(signal.receivers for signal in _ANNOUNCED),
        "warnings": list(_unknown_overrides(list(tasks._tasks))),
    }


def _unknown_overrides(names: list[str]) -> Iterator[str]:
    """Tell of limits that are set for a task that is not there."""
    for name in app_settings.BACKGROUND_TASK_OVERRIDES:
        if name not in names:
            near = meant(name, names, 3, 0.85)
            hint = f" Did you mean {near}?" if near else ""
            yield (
                f"BACKGROUND_TASK_OVERRIDES sets limits for {name!r}, but no tasks.py "
                f"of this project has a task of that name.{hint}"
            )


def warm() -> None:
    """Do once what every task would do first: import a driver, compile a query.

    Called in a template, which keeps no connection open.
    """
    try:
        tasks = _task_model().objects.using(router.db_for_write(_task_model()))
        tasks.filter(pk=0).first()  # some real row might not be readable
    except Error:
        logger.debug("The template starts without a database", exc_info=True)
    finally:
        connections.close_all()


def execute(args: dict[str, Any], context: Context) -> None:
    """Run one task: its `name` and its `params` as they are in its row.

    Raises what the task raises. `task_started`, and `task_error` for what was raised,
    are sent from here; everything else is sent after the end has been recorded.
    """
    said = {"task_id": args["id"], "task_name": args["name"]}
    said |= {name: args[name] for name in ("attempt", "queue", "runner")}
    with logrecords.carrying(said):
        _execute(args, context)


def _execute(args: dict[str, Any], context: Context) -> None:
    stops = context.stop_with = _Stops()
    if context.more:
        context.leave_with = connections.close_all
    current_task.enter(args["id"], args["attempt"], context.claim, context)
    connection_created.connect(_report_session, dispatch_uid="background_task")
    try:
        _begin_as_a_request()
        logger.info("Running %s", f"task {args['id']} ({args['title']})")
        with streams.logged(wanted=_log_std):
            signals.broadcast(signals.task_started, _task_model())
            _call(args, context)
    except BaseException as error:
        if not stops.asked:  # the announcer tells of a task that was stopped
            _tell_error(args["id"], error)
        raise
    finally:
        connection_created.disconnect(dispatch_uid="background_task")
        current_task.leave()
        # What is not committed by now is rolled back.
        if context.more and not stops.asked:
            _end_as_a_request()
        else:
            connections.close_all()


def _begin_as_a_request() -> None:
    """Do what Django does when a request starts, but for its signal."""
    reset_queries()
    close_old_connections()


def _end_as_a_request() -> None:
    """Do what Django does when a request has finished, but for its signal.

    A connection is kept if it is as it was. What the task has activated (a language, a
    time zone, a urlconf) is in context variables, which end with the job.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or not connection.autocommit:
            connection.close()
            del connections[connection.alias]  # it would go on to say that it is in one
        elif connection.connection is not None:
            _roll_back(connection)
    caches.close_all()
    close_old_connections()


def _roll_back(connection: Any) -> None:
    """Undo what a task has begun past Django, which knows of no transaction."""
    try:
        connection.rollback()
    except Error:
        connection.close()


def announce(news: list[dict[str, Any]], context: Context) -> None:
    """Send the signals that follow the record of some tries, in their order.

    Each of `news` has the id of a `task`, that of its `completed` row or None, and the
    name of an `error` that stopped it from outside, or None. Runs in a process of its
    own, which tells the supervisor how far it is.
    """
    context.stop_with = _Stops()
    try:
        told = _Told(news)
        context.progress(0)
        with streams.logged(wanted=_log_std):
            for number, one in enumerate(news, 1):
                told.tell(**one)
                context.progress(number)
    finally:
        connections.close_all()


class _Told:
    """The rows that are told of, as they are now."""

    def __init__(self, news: list[dict[str, Any]]) -> None:
        from .models import CompletedTask, Task

        alias = router.db_for_write(Task)  # a replica may not know of them yet
        tasks = [one["task"] for one in news]
        ended = [one["completed"] for one in news if one["completed"]]
        self._tasks: dict[int, Any] = {}
        self._completed: dict[int, Any] = {}
        try:
            self._tasks = Task.objects.using(alias).in_bulk(tasks)
            self._completed = CompletedTask.objects.using(alias).in_bulk(ended)
        except Exception as error:
            if len(news) > 1 or not is_unreadable(error):
                raise  # they are told of one by one, later
            say_no_values(error)
            logger.error("The row of task %s can't be read: %s", *tasks, error)

    def tell(self, task: int, completed: int | None, error: str | None) -> None:
        """Send the signals of one try; of rows that are gone there is nothing to tell.

        They have been deleted since, or tried again to their end; or can't be read.
        """
        from . import books

        row = self._completed.get(completed) if completed else self._tasks.get(task)
        if row is None:
            logger.warning("Task %s is gone: nobody is told how it ended", task)
            return
        entry = books.Entry.told(task, row)
        if error is not None:
            kind = getattr(exceptions, error)
            signals.broadcast(signals.task_error, kind, task=entry.task)
        books.announce(entry)
        signals.broadcast(signals.task_finished, _task_model())


def _report_session(connection: Any, **kwargs: Any) -> None:
    """Tell the supervisor of a session, to be ended if this process is stopped."""
    if (session := session_of(connection)) is not None:
        current_task.tell_of_session(session)


def _call(args: dict[str, Any], context: Context) -> None:
    from .tasks import tasks

    proxy = tasks.get(args["name"])
    if proxy is None:
        raise exceptions.BackgroundTaskError(
            f"No function is registered as {args['name']!r} in this process"
        )
    positional, keywords = _params(args["params"])
    try:
        proxy.call(*positional, **keywords)
    except proxy.policy.dont_retry_on:
        context.permanent = True
        raise


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
    """Send `task_error`; its `task` is None if the row is gone or can't be read."""
    if not signals.task_error.receivers:
        return
    task = None
    try:
        task = _task_model().objects.filter(pk=pk).first()
    except Exception as unreadable:  # what the task raised is to be told, not this
        say_no_values(unreadable)
        logger.exception("Task %s could not be read for task_error", pk)
    signals.broadcast(signals.task_error, type(error), task=task)


def _task_model() -> Any:
    from .models import Task  # not before Django is set up

    return Task


class _Stops:
    """What is raised in the task's main thread when it is asked to stop."""

    _KINDS: ClassVar[dict[str, type[BaseException]]] = {
        "time": exceptions.TaskTimeout,
        "memory": exceptions.TaskOutOfMemory,
        "release": exceptions.TaskReleased,
        "cancel": exceptions.TaskCancelled,
    }

    def __init__(self) -> None:
        self.asked = False  # by the supervisor

    def __call__(self, reason: str, text: str) -> BaseException:
        self.asked = reason in self._KINDS
        return self._KINDS.get(reason, exceptions.Stopped)(text)
