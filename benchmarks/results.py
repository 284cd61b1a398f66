"""What has been measured: a line of JSON for each measurement, so that it can go on."""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured, in every round once."""

    measure: str  # drain, idle, enqueue, claims, pages
    database: str
    system: str = "template"
    task: str = ""
    slots: int = 0
    state: str = ""
    rows: int = 0

    def __str__(self) -> str:
        return " ".join(str(value) for value in asdict(self).values() if value)


@dataclass(frozen=True)
class Spread:
    """A median, with the least and the most of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread | None":
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values))

    def times(self, factor: float) -> "Spread":
        """Return it in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


class Results:
    """One run: the conditions, then measurements, in a file that is appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        parsed = [json.loads(line) for line in lines]
        self.conditions: Fields = parsed[0] if parsed else {}
        self._values: dict[Cell, dict[int, Fields]] = {}
        for line in parsed[1:]:
            self._take(Cell(**line["cell"]), line["round"], line["values"])

    @classmethod
    def begin(cls, folder: Path, kind: str, conditions: Fields) -> "Results":
        """Begin a run."""
        folder.mkdir(parents=True, exist_ok=True)
        results = cls(folder / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
        results.conditions = conditions
        results._append(conditions)
        return results

    @classmethod
    def newest(cls, folder: Path, kind: str) -> "Results | None":
        """Return the last run that was begun."""
        found = sorted(folder.glob(f"{kind}-*.jsonl"))
        return cls(found[-1]) if found else None

    def add(self, cell: Cell, round_: int, values: Fields) -> None:
        self._append({"cell": asdict(cell), "round": round_, "values": values})
        self._take(cell, round_, values)

    def has(self, cell: Cell, round_: int) -> bool:
        return round_ in self._values.get(cell, {})

    def rounds(self) -> int:
        """Return how many rounds there are of what was measured most often."""
        return max((len(rounds) for rounds in self._values.values()), default=0)

    def cells(self, measure: str) -> list[Cell]:
        """Return what was measured, or tried to be, in the order of the first round."""
        return [cell for cell in self._values if cell.measure == measure]

    def by_round(self, cell: Cell, name: str) -> dict[int, Any]:
        """Return a value of every round that has it."""
        rounds = self._values.get(cell, {})
        return {r: v[name] for r, v in rounds.items() if v.get(name) is not None}

    def names(self, cell: Cell) -> list[str]:
        """Return what there are values of."""
        rounds = self._values.get(cell, {}).values()
        return list(dict.fromkeys(name for values in rounds for name in values))

    def spread(self, cell: Cell, name: str) -> Spread | None:
        return Spread.of(list(self.by_round(cell, name).values()))

    def ratio(self, of: tuple[Cell, str], to: tuple[Cell, str]) -> Spread | None:
        """Return how one value compares to another, within each round."""
        mine, theirs = self.by_round(*of), self.by_round(*to)
        return Spread.of([mine[r] / theirs[r] for r in mine if theirs.get(r)])

    def errors(self) -> Iterator[tuple[Cell, str]]:
        """Yield what could not be measured, and why, as it was said last."""
        for cell, rounds in self._values.items():
            errors = [v["error"] for v in rounds.values() if "error" in v]
            if errors:
                yield cell, errors[-1]

    def _take(self, cell: Cell, round_: int, values: Fields) -> None:
        self._values.setdefault(cell, {})[round_] = values

    def _append(self, fields: Fields) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(fields) + "\n")
