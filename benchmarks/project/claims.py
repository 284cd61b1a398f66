"""What does a look for eight tasks cost, whatever else is in the table?"""

import contextlib
import time
from datetime import timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

_BEHIND = 1_000  # due tasks behind the mass that is in their way
_CLAIM = 8
_LONGEST = 20.0  # seconds for all the looks in one state; three are always taken

# What there are many of: table, priority, queue, who holds them, and when they are due.
# `behind`: are there due tasks behind them?
_STATES: dict[str, dict[str, Any]] = {
    "due": {},
    "due-10": {"priority": "n %% 10"},
    "future": {"priority": "10", "due": False, "behind": True},
    "unserved": {"queue": "'elsewhere'", "priority": "10", "behind": True},
    "locked": {"locked_by": "'another'", "behind": True},
    "completed": {"table": "background_task_completedtask", "behind": True},
    "idle": {"due": False},
}
_QUEUES = {"unserved": ["main"]}


def fill(state: str, rows: int) -> float:
    """Have so many rows in this state, and nothing else; return the seconds it took."""
    from background_task.models import Runner

    began = time.perf_counter()
    for table in ("background_task", "background_task_completedtask"):
        _empty(table)
    Runner.objects.update_or_create(
        pk="another",
        defaults={
            "host": "elsewhere",
            "place": "elsewhere",
            "pid": 1,
            "pid_started": 1,
            "started_at": timezone.now(),
            "trusted_until": timezone.now() + timedelta(days=1),
        },
    )
    about = dict(_STATES[state])
    behind = about.pop("behind", False)
    _insert(rows, **about)
    if behind:
        _insert(_BEHIND, offset=rows)
    _analyze()
    return time.perf_counter() - began


def look(state: str, n: int) -> list[float]:
    """Return the milliseconds of each of `n` looks, or fewer if they take too long.

    A look is what the bookkeeper does: ask if something may be due, then claim in a
    transaction, which is rolled back here.
    """
    queue = _queue(_QUEUES.get(state, []))
    expected = 0 if state == "idle" else _CLAIM
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < n:
        if len(took) >= 3 and time.perf_counter() - began > _LONGEST:
            break
        looked = time.perf_counter()
        jobs: list[Any] = []
        if queue.may_be_due([None]):
            with contextlib.suppress(_RolledBack), queue.transaction():
                jobs = queue.claim({None: _CLAIM}, ())
                raise _RolledBack
        took.append((time.perf_counter() - looked) * 1e3)
        if len(jobs) != expected:
            raise AssertionError(f"{len(jobs)} claimed in {state}, not {expected}")
    queue.close()
    return took


class _RolledBack(Exception):
    pass


def _queue(queues: list[str]) -> Any:
    from background_task.supervisor.database import DatabaseQueue
    from background_task.supervisor.queue import Runner

    rules = {"seconds": 3600, "memory": None, "memory_ceiling": None, "grace": 5}
    arguments = {
        "lease": 600,
        "queues": queues,
        "excluded": [],
        "pools": [],
        "rules": rules,
        "reclaim_pids": False,
        "slots": _CLAIM,
    }
    runner = Runner(id="bench", host="here", place="here", pid=1, started=1)
    queue = DatabaseQueue({}, arguments, runner)
    queue.open(register=True)
    queue.know({"noop": {}, "orm": {}, "hold": {}})
    return queue


# The one place with raw SQL: a million rows are to be there in seconds.


def _empty(table: str) -> None:
    statement = {"sqlite": "DELETE FROM"}.get(connection.vendor, "TRUNCATE TABLE")
    _execute(f"{statement} {table}")


def _insert(
    rows: int,
    *,
    table: str = "background_task",
    priority: str = "0",
    queue: str = "'main'",
    locked_by: str = "NULL",
    due: bool = True,
    offset: int = 0,
) -> None:
    numbers, moment, later, text = {
        "postgresql": (
            "SELECT n FROM generate_series(%s, %s) AS n",
            "CAST(%s AS timestamptz)",
            "{} + n * interval '1 second'",
            "lpad(CAST(n AS text), 40, '0')",
        ),
        "mysql": (
            f"SELECT seq AS n FROM seq_{offset + 1}_to_{offset + rows} "
            "WHERE seq BETWEEN %s AND %s",
            "CAST(%s AS datetime(6))",
            "{} + INTERVAL n SECOND",
            "lpad(n, 40, '0')",
        ),
        "sqlite": (
            "WITH RECURSIVE up(n) AS (SELECT %s UNION ALL SELECT n + 1 FROM up "
            "WHERE n < %s) SELECT n FROM up",
            "%s",
            "strftime('%%Y-%%m-%%d %%H:%%M:%%f000', {}, n || ' seconds')",
            "printf('%%040d', n)",
        ),
    }[connection.vendor]
    now = timezone.now()
    start = now - timedelta(days=30) if due else now + timedelta(days=1)
    run_at, locked_at = (
        connection.ops.adapt_datetimefield_value(at)
        for at in (start, None if locked_by == "NULL" else now)
    )
    _execute(
        f"INSERT INTO {table} (task_name, task_params, task_hash, priority, run_at,"
        f" {connection.ops.quote_name('repeat')}, queue, attempts, last_error,"
        " locked_by, locked_at)"
        f" SELECT 'noop', '[[], {{}}]', {text}, {priority},"
        f" {later.format(moment)}, 0, {queue}, 0,"
        f" '', {locked_by}, {moment} FROM ({numbers}) AS numbers",
        [run_at, locked_at, offset + 1, offset + rows],
    )


def _analyze() -> None:
    """Let the planner know, as autovacuum would; SQLite never does that by itself."""
    statements = {
        "postgresql": ["VACUUM ANALYZE"],
        "mysql": [
            "ANALYZE TABLE background_task",
            "ANALYZE TABLE background_task_completedtask",
        ],
    }
    for statement in statements.get(connection.vendor, []):
        _execute(statement)


def _execute(statement: str, parameters: list[Any] | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
