"""For your tests: see what was scheduled, and run what is due, in the test's process.

Plain functions that need a database to work on, whatever kind of test gives it to them:
a `TestCase` and its transaction, a `TransactionTestCase`, a database in memory, pytest.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ParamSpec

from django.db import DatabaseError
from django.utils import timezone

from .exceptions import BackgroundTaskError
from .managers import hash_text, params_text
from .models import Task
from .signals import task_created, task_error
from .tasks import TaskProxy, autodiscover, tasks

__all__ = ["CapturedTasks", "capture_tasks", "run_due_tasks"]

P = ParamSpec("P")


def run_due_tasks(
    queue: str | None = None, *, until: datetime | None = None, limit: int = 100
) -> int:
    """Run the tasks that are due, one by one in this process; return how many ran.

    Of `queue` only, if one is given. With `until` also those that are scheduled for
    later, up to that moment, the earliest first; the clock stays as it is.

    They run as under `process_tasks --in-process`: found in every `tasks.py`, recorded,
    with all signals. The first one that fails is recorded too, and then its exception
    is raised; what else is due waits for the next call. Raises BackgroundTaskError if
    more than `limit` tasks would have to run.
    """
    autodiscover()
    ran = 0
    while task := _next_due(queue, until):
        if ran == limit:
            raise BackgroundTaskError(
                f"run_due_tasks() ran {ran} tasks (limit={limit}), and {task} is due "
                "still. If it does not schedule itself over and over, raise the limit."
            )
        claimed = task.lock(tasks._runner.worker_name)
        if claimed is not None:
            _run(claimed)
            ran += 1
    return ran


def _next_due(queue: str | None, until: datetime | None) -> Task | None:
    now = timezone.now()
    waiting = Task.objects.unlocked(now).exactly("task_name", list(tasks._tasks))
    if queue:
        waiting = waiting.exactly("queue", [queue])
    task = waiting.due(now).in_order().first()
    if task is None and until is not None:
        task = waiting.due(until).order_by("run_at", "pk").first()
    return task


def _run(claimed: Task) -> None:
    """Run a claimed task and record how it ended; then raise what it raised."""
    errors: list[BaseException | None] = []

    def keep(sender: object, task: Task, **named: Any) -> None:
        if task == claimed:  # not one that it ran in its turn
            errors.append(sys.exception())  # the signal is sent while it is handled

    task_error.connect(keep)
    try:
        tasks._runner.run_task(tasks, claimed)
    except DatabaseError:
        # A database error of the task's own may have spoilt the test's transaction, and
        # nothing can be recorded in it. What is worth telling is that error.
        if not errors:
            raise
    finally:
        task_error.disconnect(keep)
    if errors and (error := errors.pop()):
        raise error


class CapturedTasks(list[Task]):
    """The tasks that were scheduled, as they were then, in the order of the calls."""

    def assert_scheduled(
        self, task: TaskProxy[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task:
        """Return the first one of this function with exactly these arguments.

        Raises AssertionError, which names what was scheduled instead, if there is none.
        Arguments are compared as JSON holds them: a tuple equals a list.
        """
        params = params_text(args, kwargs)
        task_hash = hash_text(task.name, params)
        for captured in self:
            if captured.task_hash == task_hash:
                return captured
        wanted = Task(task_name=task.name, task_params=params)
        raise AssertionError(f"{_as_call(wanted)} was not scheduled; {self._told()}")

    def _told(self) -> str:
        if not self:
            return "nothing was"
        return "\n  ".join(["these were:", *map(_as_call, self)])


def _as_call(task: Task) -> str:
    args, kwargs = task.params()
    said = [repr(value) for value in args]
    said += [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{task.task_name}({', '.join(said)})"


@contextmanager
def capture_tasks() -> Iterator[CapturedTasks]:
    """Give the list of the tasks that are scheduled meanwhile, by whatever code.

    They are saved as ever; if that is rolled back they are in the list all the same.
    Not in it: the next run of a task that repeats, and a call that found its task
    waiting already (RESCHEDULE_EXISTING, CHECK_EXISTING).
    """
    captured = CapturedTasks()

    def keep(sender: object, task: Task, **named: Any) -> None:
        captured.append(task)

    task_created.connect(keep)
    try:
        yield captured
    finally:
        task_created.disconnect(keep)
