"""This package, with limits."""

from background_task import background
from benchmarks.limits import LIMIT
from benchmarks.project import work

_TASKS = {
    "hog": background(name="hog", memory_limit=f"{LIMIT}M", on_memory="fail")(work.hog),
    "limited": background(name="limited", memory_limit=f"{LIMIT}M")(work.hold),
    "unlimited": background(name="unlimited")(work.hold),
}


def put(kind: str, number: int) -> None:
    _TASKS[kind](number)
