"""procrastinate."""

from procrastinate.contrib.django import app

from benchmarks.project import work

_TASKS = {
    kind: app.task(name=kind)(getattr(work, kind)) for kind in ("noop", "orm", "hold")
}


def put(kind: str, number: int) -> None:
    _TASKS[kind].defer(number=number)
