"""The producer: a process of the project that enqueues what it is told to.

Reads commands from stdin, a JSON line each, and answers each with one on stdout.
"""

import importlib
import json
import os
import statistics
import sys
import time
from typing import Any

import django


def main() -> None:
    django.setup()
    for line in sys.stdin:
        command = json.loads(line)
        answer = globals()[f"do_{command.pop('do')}"](**command)
        print(json.dumps(answer), flush=True)


def _put(kind: str, number: int) -> None:
    name = f"benchmarks.project.queues.{os.environ['BENCH_QUEUE']}"
    importlib.import_module(name).put(kind, number)


def do_enqueue(kind: str, n: int) -> dict[str, Any]:
    """Enqueue `n` tasks, together where the package's store is the database."""
    from django.db import transaction

    with transaction.atomic():
        for number in range(n):
            _put(kind, number)
    return {}


def do_put(kind: str, number: int) -> dict[str, Any]:
    """Enqueue one; return the moment at which that was done."""
    _put(kind, number)
    return {"at": time.monotonic()}


def do_rows() -> dict[str, Any]:
    """Make the rows that the ORM task works on."""
    from .models import Row

    Row.objects.bulk_create(Row(pk=number + 1) for number in range(64))
    return {}


def do_enqueue_cost(n: int) -> dict[str, Any]:
    """Return the median microseconds of our call, and of a plain create, by turns."""
    from django.utils import timezone

    from background_task.models import Task

    def create(number: int) -> None:
        Task.objects.create(
            task_name="noop",
            task_params=f"[[{number}], {{}}]",
            task_hash="0" * 40,
            run_at=timezone.now(),
        )

    ways = {"call": lambda number: _put("noop", number), "create": create}
    took: dict[str, list[float]] = {"call": [], "create": []}
    for number in range(n):
        for name, way in ways.items():
            began = time.perf_counter()
            way(number)
            took[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in took.items()}
    return {name: median * 1e6 for name, median in medians.items()}


def do_wait_for_ends(n: int) -> dict[str, Any]:
    """Wait until so many tasks have failed for good."""
    from background_task.models import CompletedTask

    give_up_at = time.monotonic() + 60
    while CompletedTask.objects.count() < n and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return {"ended": CompletedTask.objects.count()}


def do_claims(state: str, rows: int, n: int) -> dict[str, Any]:
    """Fill the table; return the milliseconds that looks for eight tasks took."""
    from .claims import fill, look

    filled_in = fill(state, rows)
    return {"took": look(state, n), "filled_in": filled_in}


def do_pages(rows: int, n: int) -> dict[str, Any]:
    """Fill the tables; return the milliseconds of each page of the admin."""
    from .pages import fill, measure

    fill(rows)
    return measure(n)


if __name__ == "__main__":
    main()
