"""This package, and django-background-tasks 1.2.8: the same import names."""

from background_task import background
from benchmarks.project import work

_TASKS = {
    kind: background(name=kind)(getattr(work, kind)) for kind in ("noop", "orm", "hold")
}


def put(kind: str, number: int) -> None:
    _TASKS[kind](number)
