"""What we want to reach, and whether a run did."""

from collections.abc import Iterator
from dataclasses import dataclass

from .results import Cell, Results, Spread

STATES = {
    "due": "due, all of one priority",
    "due-10": "due, over ten priorities",
    "future": "in the future, of higher priority, in front of 1,000 due",
    "unserved": "of a queue that is not served, in front of 1,000 due",
    "locked": "locked, in front of 1,000 due",
    "completed": "completed, beside 1,000 due",
    "idle": "in the future, nothing due",
}
FEW, MANY = 1_000, 1_000_000
NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite", "mariadb": "MariaDB"}


@dataclass(frozen=True)
class Target:
    """A number that is to be at least, or at most, so much."""

    text: str
    limit: float
    unit: str
    at_least: bool
    found: Spread | None

    @property
    def wanted(self) -> str:
        return f"{self.limit:g}{self.unit} or {'more' if self.at_least else 'less'}"

    @property
    def verdict(self) -> str:
        """Met or missed, by the median."""
        if self.found is None:
            return "not measured"
        met = (self.found.median >= self.limit) == self.at_least
        met = met or self.found.median == self.limit
        return "met" if met else "**MISSED**"


def drained(system: str, task: str, database: str = "postgresql") -> Cell:
    return Cell(measure="drain", database=database, system=system, task=task, slots=8)


def claimed(database: str, state: str, rows: int) -> Cell:
    return Cell(measure="claims", database=database, state=state, rows=rows)


def of_speed(results: Results) -> Iterator[Target]:
    """Yield the targets of `make bench`."""
    ratios = [
        ("template", "noop", "rq", 4),
        ("template", "noop", "celery", 0.9),
        ("template", "noop", "spawn", 50),
        ("template", "orm", "rq", 1.5),
        ("reuse", "noop", "celery", 4),
        ("reuse", "orm", "celery", 3),
    ]
    named = {
        "template": "process per task",
        "reuse": "--tasks-per-process 100",
        "rq": "RQ's forking workers",
        "celery": "Celery prefork",
        "spawn": "our own `spawn`",
        "noop": "no-op",
        "orm": "ORM task",
    }
    for system, task, peer, limit in ratios:
        text = f"drain rate, {named[system]}, {named[task]}: against {named[peer]}"
        found = results.ratio(
            (drained(system, task), "rate"), (drained(peer, task), "rate")
        )
        yield Target(text, limit, "x", True, found)
    for database, p50, p95, cpu in (
        ("postgresql", 4, 10, 0.5),
        ("sqlite", 8, 15, 3),
    ):
        where, cell = NAMES[database], Cell(measure="idle", database=database)
        for name, limit in (("p50", p50), ("p95", p95)):
            text = f"start latency on an idle runner, {name}, {where}"
            yield Target(text, limit, " ms", False, results.spread(cell, name))
        found = results.spread(cell, "idle_cpu")
        text = f"idle CPU, of a core, {where}"
        yield Target(text, cpu, " %", False, found and found.times(100))
    found = results.spread(Cell(measure="idle", database="postgresql"), "uss_task")
    text = "memory that a running no-op task adds (USS)"
    yield Target(text, 3, " MB", False, found and found.times(1e-6))
    for database in ("postgresql", "sqlite"):
        cell = Cell(measure="enqueue", database=database)
        found = results.ratio((cell, "call"), (cell, "create"))
        text = f"enqueue, against a plain `Task.objects.create`, {NAMES[database]}"
        yield Target(text, 1.3, "x", False, found)


def of_claims(results: Results) -> Iterator[Target]:
    """Yield the targets of `make bench-claims`."""
    for database, limit in (("postgresql", 2), ("sqlite", 2), ("mariadb", 3)):
        for state, about in STATES.items():
            found = results.ratio(
                (claimed(database, state, MANY), "look"),
                (claimed(database, state, FEW), "look"),
            )
            text = f"claim of 8, {NAMES[database]}: a million rows {about}"
            yield Target(text, limit, "x", False, found)


def pages(results: Results, cell: Cell) -> list[str]:
    """Return the names of the pages that were measured."""
    return [name for name in results.names(cell) if ":" not in name and name != "error"]


def of_pages(results: Results) -> Iterator[Target]:
    """Yield the targets of `make bench-pages`."""
    for cell in results.cells("pages"):
        for name in pages(results, cell):
            if name == "tasks_status":
                continue  # no page: a person waits for a process to start, too
            text = f"{name}, {NAMES[cell.database]}"
            yield Target(text, 100, " ms", False, results.spread(cell, name))
