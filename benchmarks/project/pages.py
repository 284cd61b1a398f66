"""What do the admin's pages, `/metrics` and `tasks_status` cost on so many rows?"""

import random
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connection, models
from django.http import HttpRequest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

_SEEDS = 10_000  # rows that are made one by one; the others are copies of them
_WAITING = 0.1  # tasks that wait, for each that has ended
_QUEUES = (None, "mail", "images", "reports", "partners")
_NAMES = [f"shop.tasks.task_{number}" for number in range(40)]
_DAYS = 30  # over which tries are spread
_RARE = 20  # tries that were lost; one of twenty has failed, the others succeeded
_ERROR = (
    'Traceback (most recent call last):\n  File "/srv/shop/tasks.py", line 41, in pay\n'
    "    bank.charge(order)\nshop.bank.Refused: order {n} was refused, code {code}"
)


def fill(rows: int) -> None:
    """Have so many completed tasks and tries, a tenth as many that wait, 8 that run."""
    from background_task.models import Attempt, CompletedTask, Task

    dice = random.Random(7)
    seeds = min(_SEEDS, rows)
    Attempt.objects.bulk_create(_attempt(dice, n) for n in range(seeds))
    _multiply(Attempt, rows)
    _execute("UPDATE background_task_attempt SET task_id = id")
    _execute(f"UPDATE background_task_attempt SET outcome = 'Lost' WHERE id <= {_RARE}")
    CompletedTask.objects.bulk_create(_completed(dice, n) for n in range(seeds))
    _multiply(CompletedTask, rows)
    _execute("UPDATE background_task_completedtask SET task_id = id")
    waiting = round(rows * _WAITING)
    Task.objects.bulk_create(_task(dice) for n in range(min(seeds, waiting)))
    _multiply(Task, waiting)
    _run()
    if connection.vendor == "postgresql":
        _execute("VACUUM ANALYZE")


def measure(n: int) -> dict[str, Any]:
    """Return the median milliseconds of each page, asked for `n` times.

    Beside them the most, those of this process's CPU, and how many queries there are.
    """
    found = _measure(_pages(), n)
    return found | _measure(_metrics(), n) | _measure(_commands(), n)


Page = tuple[Callable[[], int], Callable[[], object]]


def _measure(pages: dict[str, Page], n: int) -> dict[str, Any]:
    from django.db import reset_queries

    found: dict[str, Any] = {}
    for name, (ask, before) in pages.items():
        took, cpu = [], []
        for number in range(n + 1):
            before()
            connection.force_debug_cursor = number == 0  # the first one is not timed
            reset_queries()
            began, used = time.perf_counter(), time.process_time()
            status = ask()
            took.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.process_time() - used) * 1e3)
            if status != 200:
                raise AssertionError(f"{name}: status {status}")
            if number == 0 and connection.queries:
                found[f"{name}: queries"] = len(connection.queries)
        found[name] = statistics.median(took[1:])
        found[f"{name}: most"] = max(took[1:])
        found[f"{name}: cpu"] = statistics.median(cpu[1:])
    return found


def _pages() -> dict[str, Page]:
    """Return each page by its name: how it is asked for, and what is done before."""
    from django.contrib.admin import site
    from django.contrib.auth.models import User

    from background_task import dashboard
    from background_task.models import Attempt, CompletedTask, Runner, Task

    client = Client()
    client.force_login(User.objects.create_superuser("bench"))

    def column(model: type[models.Model], name: str) -> str:
        """Return the address of a list that is ordered by a column."""
        columns = site._registry[model].get_list_display(HttpRequest())
        return f"{admin(model, 'changelist')}?o={list(columns).index(name) + 1}"

    def outcome(model: type[models.Model], name: str) -> str:
        parameter = "outcome__exact" if model is Attempt else "outcome"
        return f"{admin(model, 'changelist')}?{parameter}={name}"

    def page(path: str, before: Callable[[], object] = lambda: None) -> Page:
        return lambda: client.get(path).status_code, before

    def admin(model: type[models.Model], page: str, *args: Any) -> str:
        name = f"admin:background_task_{model._meta.model_name}_{page}"
        return reverse(name, args=args)

    def newest(model: Any) -> str:
        return admin(model, "change", model.objects.order_by("-pk").first().pk)

    board = reverse("admin:background_task_dashboard")
    return {
        "list of tasks": page(admin(Task, "changelist")),
        "a task": page(newest(Task)),
        "list of completed tasks": page(admin(CompletedTask, "changelist")),
        "a completed task": page(newest(CompletedTask)),
        "completed tasks by name": page(column(CompletedTask, "named")),
        "completed tasks by attempts": page(column(CompletedTask, "attempts")),
        "completed tasks of an outcome, frequent": page(
            outcome(CompletedTask, "Succeeded")
        ),
        "completed tasks of an outcome, one in 20": page(
            outcome(CompletedTask, "Failed")
        ),
        "completed tasks of an outcome, rare": page(outcome(CompletedTask, "Lost")),
        "list of tries": page(admin(Attempt, "changelist")),
        "tries by outcome": page(column(Attempt, "how")),
        "tries of an outcome, frequent": page(outcome(Attempt, "Succeeded")),
        "tries of an outcome, rare": page(outcome(Attempt, "Lost")),
        "a try": page(newest(Attempt)),
        "list of runners": page(admin(Runner, "changelist")),
        "dashboard, nothing kept": page(board, dashboard.forget),
        "dashboard": page(board),
        "its part that changes, nothing kept": page(f"{board}?live", dashboard.forget),
        "its part that changes": page(f"{board}?live"),
    }


def _metrics() -> dict[str, Page]:
    """Return what the monitor makes for `/metrics`, when it has seen some tries end.

    It asks the database in a thread and on a connection of its own, which is opened for
    it: that is in the time.
    """
    from background_task.metrics import Depths, Metrics

    metrics = Metrics()
    metrics.take(_tick())

    def ask() -> int:
        return metrics.answer()[0]

    def forget() -> None:
        metrics._depths = Depths()

    return {"/metrics, nothing kept": (ask, forget), "/metrics": (ask, lambda: None)}


def _commands() -> dict[str, Page]:
    """Return what a command asks of the database, without the start of its process."""
    from background_task import status

    return {"tasks_status": (lambda: 200 if status.status() else 0, lambda: None)}


def _tick() -> dict[str, Any]:
    """Return what a runner tells of itself, and how one try of each task ended."""
    dice = random.Random(9)
    end = {"kind": "ended", "outcome": "Succeeded", "waited": 0.1, "peak": 50 << 20}
    return {
        "lost": 0,
        "why_not": "",
        "workers": 8,
        "running": {"mail": 4},
        "held": 8,
        "lease_age": 1.0,
        "queues": [queue for queue in _QUEUES if queue],
        "notes": [
            end | {"task": name, "queue": "mail", "seconds": dice.random()}
            for name in _NAMES
        ],
    }


def _attempt(dice: random.Random, number: int) -> Any:
    from background_task.models import Attempt

    failed = dice.random() < 0.05
    ended_at = timezone.now() - timedelta(days=_DAYS * dice.random())
    return Attempt(
        task_id=number,
        task_name=dice.choice(_NAMES),
        number=1,
        outcome="Failed" if failed else "Succeeded",
        error=_ERROR.format(n=number, code=dice.randrange(9)) if failed else "",
        waited=dice.random(),
        started_at=ended_at - timedelta(seconds=10 * dice.random()),
        ended_at=ended_at,
        host="elsewhere",
        pid=number,
        runner_id="bench-0",
        exit_code=0,
        peak_memory=dice.randrange(30, 300) << 20,
        cpu_seconds=dice.random(),
        output="a line of output\n" * 20,
    )


def _completed(dice: random.Random, number: int) -> Any:
    from background_task.models import CompletedTask

    failed = dice.random() < 0.05
    ended_at = timezone.now() - timedelta(days=_DAYS * dice.random())
    return CompletedTask(
        task_name=dice.choice(_NAMES),
        task_params=f'[[{number}], {{"copies": 2}}]',
        task_hash=f"{number:040}",
        run_at=ended_at,
        queue=dice.choice(_QUEUES),
        attempts=1 if failed else 0,
        failed_at=ended_at if failed else None,
        last_error=_ERROR.format(n=number, code=1) if failed else "",
        task_id=number,
    )


def _task(dice: random.Random, **columns: Any) -> Any:
    from background_task.models import Task

    number = dice.randrange(10**6)
    return Task(
        task_name=dice.choice(_NAMES),
        task_params=f'[[{number}], {{"copies": 2}}]',
        task_hash=f"{number:040}",
        priority=dice.randrange(3),
        run_at=timezone.now() + timedelta(hours=dice.uniform(-4, 4)),
        queue=dice.choice(_QUEUES),
        **columns,
    )


def _run() -> None:
    """Have two runners, and four tasks that each of them runs."""
    from background_task.models import Runner, Task

    dice, now = random.Random(8), timezone.now()
    for number in range(2):
        runner = f"bench-{number}"
        held = [_task(dice, locked_by=runner, locked_at=now) for _ in range(4)]
        for task in held:
            task.save()
        entries = [
            {
                "task": task.pk,
                "name": task.task_name,
                "pid": 4711,
                "began": time.time() - 60,
                "held": 100 << 20,
                "memory": 512 << 20,
                "seconds": 3600,
            }
            for task in held
        ]
        Runner.objects.create(
            id=runner,
            host="elsewhere",
            place="elsewhere",
            pid=number,
            pid_started=1,
            started_at=now,
            trusted_until=now + timedelta(hours=1),
            lease=3600,
            slots=4,
            queues=[],
            draining=False,
            running=entries,
        )
    assert Task.objects.filter(locked_by__isnull=False).count() == 8


def _multiply(model: type[models.Model], rows: int) -> None:
    """Copy a table's rows onto itself until there are so many."""
    quote, table = connection.ops.quote_name, model._meta.db_table
    fields = [field.column for field in model._meta.concrete_fields if field.column]
    columns = ", ".join(quote(name) for name in fields if name != "id")
    have = model._default_manager.count()
    while have < rows:
        more = min(have, rows - have)
        source = f"SELECT {columns} FROM {quote(table)} LIMIT {more}"
        _execute(f"INSERT INTO {quote(table)} ({columns}) {source}")
        have += more


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
