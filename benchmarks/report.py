"""What was measured, as Markdown: each kind of run has its part of the page."""

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import plot, targets
from .limits import LIMIT, WATCHED
from .measure import SLOTS
from .results import Cell, Results, Spread
from .systems import LIMITED, SYSTEMS, System
from .targets import FEW, NAMES, Target

_FRAME = Path(__file__).with_name("page.md")


def write(page: Path, kind: str, results: Results) -> None:
    """Put a run into its part of the page; what else is on the page stays.

    The raw figures go beside it.
    """
    text = page.read_text() if page.exists() else _FRAME.read_text()
    match kind:
        case "speed":
            lines = _speed(results, page)
        case "claims":
            lines = _claims(results)
        case "pages":
            lines = _pages(results)
        case _:
            lines = _limits(results)
    begin, end = f"<!-- {kind} -->", f"<!-- /{kind} -->"
    part = "\n".join([begin, "", *lines, "", end])
    pattern = f"{re.escape(begin)}.*{re.escape(end)}"
    page.write_text(re.sub(pattern, lambda _: part, text, flags=re.S))
    if kind == "speed":
        page.with_suffix(".svg").write_text(_picture(results))
    shutil.copyfile(results.path, page.with_name(f"{page.stem}-{kind}.jsonl"))


def _speed(results: Results, page: Path) -> list[str]:
    return [
        *_conditions(results),
        *_targets(targets.of_speed(results)),
        "### Drain rate: tasks per second",
        "",
        f"![Drain rates at 8 slots]({page.with_suffix('.svg').name})",
        "",
        *_drains(results),
        "### A runner of 8 slots, idle and busy",
        "",
        *_idle(results),
        "### Enqueueing one task, and claiming eight",
        "",
        *_costs(results),
        *_errors(results),
    ]


def _claims(results: Results) -> list[str]:
    return [
        *_conditions(results),
        *_targets(targets.of_claims(results)),
        "### A look for eight tasks: ms",
        "",
        *_states(results),
        *_errors(results),
    ]


def _conditions(results: Results) -> list[str]:
    about = results.conditions
    packages = ", ".join(f"{name} {v}" for name, v in about["packages"].items())
    servers = ", ".join([*about["servers"].values(), about["redis"]])
    lines = [
        f"{about['when']}, commit {about['commit']}, rounds: {results.rounds()}. "
        f"{about['cores']} cores of {about['cpu']}, Linux {about['kernel']}, load "
        f"{about['load']:.1f} at the start. Python {about['python']}; {packages}; "
        f"{servers}. Spares of the template: {about['spares'] or 'none'}.",
        "",
    ]
    if about["scale"] != 1:
        text = f"**A rehearsal at scale {about['scale']:g}: the numbers mean nothing.**"
        lines = [text, "", *lines]
    return lines


def _targets(found: Iterable[Target]) -> list[str]:
    rows = [
        [target.text, target.wanted, _shown(target.found), target.verdict]
        for target in found
    ]
    return _table(["Target", "Wanted", "Measured", ""], rows)


def _drains(results: Results) -> list[str]:
    columns = [(task, slots) for task in ("noop", "orm") for slots in SLOTS]
    names = {"noop": "no-op", "orm": "ORM"}
    rows = []
    for database, system in _measured(results, "drain"):
        cells = [
            results.spread(
                Cell(
                    measure="drain",
                    database=database,
                    system=system.name,
                    task=task,
                    slots=slots,
                ),
                "rate",
            )
            for task, slots in columns
        ]
        store = "Redis" if system.store == "Redis" else NAMES[database]
        rows.append([system.text, system.isolation, store, *map(_shown, cells)])
    heads = [f"{names[task]}, {slots} slots" for task, slots in columns]
    return _table(["", "A task's process", "Queue", *heads], rows)


def _idle(results: Results) -> list[str]:
    columns = {
        "Start latency p50, ms": ("p50", 1),
        "p95, ms": ("p95", 1),
        "Idle CPU, % of a core": ("idle_cpu", 100),
        "PSS idle, MB": ("pss_idle", 1e-6),
        "PSS busy, MB": ("pss_busy", 1e-6),
        "tasks running then": ("busy_tasks", 1),
        "USS of a running task's process, MB": ("uss_task", 1e-6),
    }
    rows = []
    for database, system in _measured(results, "idle"):
        cell = Cell(measure="idle", database=database, system=system.name)
        found = [
            (spread := results.spread(cell, name)) and spread.times(factor)
            for name, factor in columns.values()
        ]
        store = "Redis" if system.store == "Redis" else NAMES[database]
        rows.append([system.text, store, *map(_shown, found)])
    return _table(["", "Queue", *columns], rows)


def _costs(results: Results) -> list[str]:
    rows = []
    for cell in results.cells("enqueue"):
        for name, text in (("call", "a call"), ("create", "`Task.objects.create`")):
            spread = results.spread(cell, name)
            where = NAMES[cell.database]
            shown = _shown(spread and spread.times(1e-3))
            rows.append([f"enqueue by {text}", where, "", shown])
    for cell in results.cells("claims"):
        shown = _shown(results.spread(cell, "look"))
        rows.append(["a look for eight", NAMES[cell.database], f"{cell.rows:,}", shown])
    return _table(["", "Database", "Rows due", "ms"], rows)


def _states(results: Results) -> list[str]:
    rows = []
    for cell in results.cells("claims"):
        if cell.rows == FEW:
            continue
        few = targets.claimed(cell.database, cell.state, FEW)
        spreads = results.spread(few, "look"), results.spread(cell, "look")
        rows.append(
            [
                NAMES[cell.database],
                targets.STATES[cell.state],
                f"{cell.rows:,}",
                *map(_shown, spreads),
                _shown(results.ratio((cell, "look"), (few, "look"))),
            ]
        )
    return _table(
        ["Database", "Rows", "How many", f"{FEW:,} of them", "All", "Ratio"], rows
    )


def _pages(results: Results) -> list[str]:
    """Show what each page takes, and how many queries it asks."""
    lines = _conditions(results)
    for cell in results.cells("pages"):
        spreads = {
            name: (
                results.spread(cell, name),
                results.spread(cell, f"{name}: most"),
                results.spread(cell, f"{name}: cpu"),
                results.spread(cell, f"{name}: queries"),
            )
            for name in targets.pages(results, cell)
        }
        where = NAMES[cell.database]
        lines += [
            f"{where}, {cell.rows:,} completed tasks and as many tries, "
            f"{cell.rows // 10:,} tasks that wait:",
            "",
            *_table(
                ["Page", "ms", "the slowest", "CPU of the site", "Queries"],
                [[name, *map(_shown, found)] for name, found in spreads.items()],
            ),
        ]
    return [*lines, *_targets(targets.of_pages(results)), *_errors(results)]


def _limits(results: Results) -> list[str]:
    """Show how late the limit of memory is, and what watching costs."""
    rows = []
    for cell in results.cells("watch"):
        used = results.spread(cell, "supervisor_cpu")
        share = _shown(used and used.times(100))
        rows.append([str(cell.slots), WATCHED[cell.state], f"{share} %"])
    late = results.spread(
        Cell(measure="overshoot", database="sqlite", system=LIMITED.name), "overshoot"
    )
    return [
        *_conditions(results),
        "A task that takes memory as fast as it can be touched, with a limit of "
        f"{LIMIT} MiB, has reached so much more when it is dead, by its own last word: "
        f"{_shown(late and late.times(100))} % (the median of ten, round by round).",
        "",
        "What watching costs the supervisor, while tasks do nothing:",
        "",
        *_table(["Tasks", "Memory limit", "CPU of the supervisor, of a core"], rows),
        *_errors(results),
    ]


def _errors(results: Results) -> list[str]:
    """Tell each reason once, with all that it has stopped."""
    stopped: dict[str, list[str]] = {}
    for cell, error in results.errors():
        stopped.setdefault(error, []).append(str(cell))
    lines = [f"* {error}: {', '.join(cells)}" for error, cells in stopped.items()]
    return ["### What could not be measured", "", *lines] if lines else []


def _measured(results: Results, measure: str) -> Iterator[tuple[str, System]]:
    """Yield the databases and systems of which a run knows something."""
    seen = {(cell.database, cell.system) for cell in results.cells(measure)}
    for database in NAMES:
        for system in SYSTEMS:
            if (database, system.name) in seen:
                yield database, system


def _picture(results: Results) -> str:
    panels = []
    for task, title in (("noop", "no-op"), ("orm", "one ORM read and write")):
        bars: list[plot.Bar] = []
        for database, system in _measured(results, "drain"):
            cell = targets.drained(system.name, task, database)
            if spread := results.spread(cell, "rate"):
                store = "Redis" if system.store == "Redis" else NAMES[database]
                bars.append((f"{system.text} ({store})", spread, system.ours))
        panels.append((f"Tasks per second, {title}, 8 slots", bars))
    return plot.svg(panels)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _shown(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    median, low, high = (_rounded(v) for v in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low} to {high})"


def _rounded(value: float) -> str:
    """Return three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
