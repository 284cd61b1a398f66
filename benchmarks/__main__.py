"""Measure, and write `docs/benchmarks.md`: `python -m benchmarks speed` or `claims`.

Every measurement is kept at once, so that `--resume` goes on where a run was stopped.
"""

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from . import databases, measure, report
from .limits import TREES, WATCHED
from .results import Cell, Fields, Results
from .stage import Failed, Theatre
from .systems import LIMITED, ROOT, SITE, SYSTEMS, System
from .targets import FEW, MANY, STATES

_TASKS = "noop", "orm"
_SIZES = 1_000, 10_000, 100_000
_PACKAGES = "django", "psycopg", "rq", "celery", "django-tasks-db", "procrastinate"


def main() -> int:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped; --resume goes on."))
    results = _results(options)
    _say(f"Results: {results.path}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        theatre = Theatre(Path(folder))
        try:
            complete = Run(options, theatre, results).go()
        finally:
            theatre.close()
    report.write(options.page, options.what, results)
    _say(f"Written: {options.page}")
    if not complete:
        _say("The time is over: --resume does the rest.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("what", choices=["speed", "claims", "limits", "pages"])
    parser.add_argument("--rounds", type=int, help="default: 3; claims: 1")
    parser.add_argument(
        "--minutes",
        type=float,
        help="begin nothing new after so many; default: 37; claims: 27",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="less than 1: a rehearsal"
    )
    parser.add_argument("--systems", nargs="+", choices=[s.name for s in SYSTEMS])
    parser.add_argument(
        "--databases", nargs="+", choices=["postgresql", "sqlite", "mariadb"]
    )
    parser.add_argument(
        "--states", nargs="+", choices=list(STATES), default=list(STATES)
    )
    parser.add_argument("--resume", action="store_true", help="go on with the last run")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks.md")
    return parser


def _results(options: argparse.Namespace) -> Results:
    """Begin a run, or go on with the last one if it was of the same code."""
    claims = options.what == "claims"
    few = options.what in ("claims", "pages")
    options.rounds = options.rounds or (1 if few else 3)
    options.minutes = options.minutes or (27 if claims else 37)
    options.systems = options.systems or [system.name for system in SYSTEMS]
    served = ["postgresql", "sqlite", *(["mariadb"] if claims else [])]
    served = ["postgresql"] if options.what == "pages" else served
    options.databases = options.databases or served
    last = Results.newest(options.results, options.what) if options.resume else None
    if last is None:
        return Results.begin(options.results, options.what, _conditions(options))
    same = "commit", "scale"
    now = _conditions(options)
    if any(last.conditions[name] != now[name] for name in same):
        sys.exit(
            f"{last.path} was begun with {[last.conditions[name] for name in same]}, "
            f"this is {[now[name] for name in same]}: begin a new run, without --resume"
        )
    return last


def _conditions(options: argparse.Namespace) -> Fields:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "scale": options.scale,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "servers": {name: databases.version(name) for name in options.databases},
        "redis": databases.version("redis"),
        "spares": _spares(),
        "load": os.getloadavg()[0],
    }


def _commit() -> str:
    """Return the commit, and whether the code is not as it was committed."""
    code = ["background_task", "supervisor", "benchmarks"]
    changed = _git("status", "--porcelain", "--", *code)
    return _git("describe", "--always") + (" with changes" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "not installed"


def _spares() -> int | None:
    """Return how many forks of the template wait for a task."""
    from background_task.supervisor import template

    return getattr(template, "_SPARES", None)


def _say(text: str) -> None:
    print(text, flush=True)


class Run:
    """Round after round, until all is measured or the time is over."""

    def __init__(
        self, options: argparse.Namespace, theatre: Theatre, results: Results
    ) -> None:
        self._options = options
        self._theatre = theatre
        self._results = results
        self._systems = {s.name: s for s in SYSTEMS if s.name in options.systems}
        self._ends_at = time.monotonic() + options.minutes * 60

    def go(self) -> bool:
        """Measure what is not measured yet; return whether all of it is."""
        kinds = {
            "speed": self._speed_cells,
            "claims": self._claim_cells,
            "limits": self._limit_cells,
            "pages": self._page_cells,
        }
        cells = list(kinds[self._options.what]())
        for round_ in range(1, self._options.rounds + 1):
            for number, cell in enumerate(cells, 1):
                if self._results.has(cell, round_):
                    continue
                if time.monotonic() > self._ends_at:
                    return False
                began = time.monotonic()
                values = self._measured(cell)
                self._results.add(cell, round_, values)
                shown = {k: v for k, v in values.items() if not isinstance(v, list)}
                _say(
                    f"round {round_} of {self._options.rounds}, {number} of "
                    f"{len(cells)}, {time.monotonic() - began:.0f} s: {cell}: {shown}"
                )
        return True

    def _speed_cells(self) -> Iterator[Cell]:
        """Yield all systems' cells of one kind, one after the other."""
        for task in _TASKS:
            for slots in measure.SLOTS:
                for database, system in self._pairs():
                    yield Cell(
                        measure="drain",
                        database=database,
                        system=system.name,
                        task=task,
                        slots=slots,
                    )
        for database, system in self._pairs():
            yield Cell(measure="idle", database=database, system=system.name)
        for database in self._options.databases:
            yield Cell(measure="enqueue", database=database)
            for rows in _SIZES:
                rows = max(100, round(rows * min(1, self._options.scale)))
                yield Cell(measure="claims", database=database, state="due", rows=rows)

    def _pairs(self) -> Iterator[tuple[str, System]]:
        for database in self._options.databases:
            for system in self._systems.values():
                # The peers' tasks work on PostgreSQL, whatever their queue is.
                fast = system.ours and system.name != "spawn"
                if database == "postgresql" or fast:
                    yield database, system

    def _claim_cells(self) -> Iterator[Cell]:
        rows = max(2 * FEW, round(MANY * self._options.scale))
        for database in self._options.databases:
            for state in self._options.states:
                for size in (FEW, rows):
                    yield Cell(
                        measure="claims", database=database, state=state, rows=size
                    )

    def _limit_cells(self) -> Iterator[Cell]:
        """Yield what limits cost, and how late they are; one database will do."""
        for number in TREES:
            for state in WATCHED:
                yield Cell(
                    measure="watch",
                    database="sqlite",
                    system=LIMITED.name,
                    state=state,
                    slots=number,
                )
        yield Cell(measure="overshoot", database="sqlite", system=LIMITED.name)

    def _page_cells(self) -> Iterator[Cell]:
        """Yield all pages of the admin, on one filling of the tables."""
        rows = max(100, round(MANY * self._options.scale))
        for database in self._options.databases:
            yield Cell(measure="pages", database=database, system=SITE.name, rows=rows)

    def _measured(self, cell: Cell) -> Fields:
        """Measure it on a stage of its own; a failure is a result too."""
        systems = {**self._systems, LIMITED.name: LIMITED, SITE.name: SITE}
        system = systems.get(cell.system, SYSTEMS[0])
        with contextlib.ExitStack() as stack:
            try:
                stage = stack.enter_context(self._theatre.stage(system, cell.database))
                match cell.measure:
                    case "drain":
                        rate, scale = self._rate(cell, system), self._options.scale
                        return measure.drain(stage, cell.task, cell.slots, rate, scale)
                    case "idle":
                        return measure.idle(stage, self._options.scale)
                    case "watch":
                        scale = self._options.scale
                        return measure.watch(stage, cell.state, cell.slots, scale)
                    case "overshoot":
                        return measure.overshoot(stage, self._options.scale)
                    case "pages":
                        return measure.pages(stage, cell.rows, self._options.scale)
                    case "enqueue":
                        return measure.enqueue(stage, self._options.scale)
                    case _:
                        return measure.claims(stage, cell.state, cell.rows)
            except Failed as error:
                return {"error": str(error)}
            except Exception as error:  # such as no server: reported, not fatal
                text = " ".join(str(error).split())
                return {"error": f"{type(error).__name__}: {text}"}

    def _rate(self, cell: Cell, system: System) -> float:
        """Return how fast it may be: as in the rounds before, or as we think."""
        if known := self._results.spread(cell, "rate"):
            return known.median
        return system.rate * (0.4 if cell.task == "orm" else 1.0)


if __name__ == "__main__":
    sys.exit(main())
