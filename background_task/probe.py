"""Is `process_tasks` alive, and is it ready? Asked of its heartbeat file.

    python -m background_task.probe PATH [--max-age 30] [--ready]

says so in one line, with exit status 0 or 1. It imports neither Django nor anything
else but the standard library: it starts in the time that Python takes to start, and an
outage of the database means nothing to it. To be run where the runner runs, in its
container: a file that was left by another is no sign of life.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

# As the supervisor's `clock.py` has it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_ZOMBIE, _DEAD = "Z", "X"

MAX_AGE = 30.0  # seconds that the last beat may be old


def main() -> int:
    """Say how the runner is; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m background_task.probe",
        description="Say whether process_tasks is alive, by its heartbeat file.",
    )
    parser.add_argument("path", metavar="PATH", help="what --heartbeat-file names")
    parser.add_argument(
        "--max-age",
        type=float,
        default=MAX_AGE,
        metavar="SECONDS",
        help="how old its last beat may be (default: 30)",
    )
    parser.add_argument(
        "--ready", action="store_true", help="ask also whether it claims tasks"
    )
    asked = parser.parse_args()
    well, text = judge(asked.path, max_age=asked.max_age, ready=asked.ready)
    print(text)
    return 0 if well else 1


def judge(path: str, *, max_age: float, ready: bool = False) -> tuple[bool, str]:
    """Return whether a runner is alive, and `ready` if that is asked, and why (not)."""
    try:
        said = _read(path)
    except OSError as error:
        return False, f"Not alive: {path} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return False, f"Not alive: {path} is not a heartbeat file"
    if why := _why_dead(said):
        return False, f"Not alive: {path} was left by {why}"
    age = time.clock_gettime(_CLOCK) - said["at"]
    if not -1 <= age <= max_age:
        most = f"more than the {max_age:g} s of --max-age"
        return False, f"Not alive: the last beat was {age:.1f} s ago, {most}"
    if ready and said["why_not"]:
        return False, f"Not ready: {said['why_not']}"
    text = f"{'Ready' if ready else 'Alive'}: beat {max(0.0, age):.1f} s ago"
    return True, f"{text}; paused: {said['paused']}" if said["paused"] else text


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="ascii") as file:
        said = json.loads(file.read(4096))
    kinds = {"at": float, "place": str, "pid": int, "started": int, "why_not": str}
    known = {name: kind(said[name]) for name, kind in kinds.items()}
    return known | {"paused": str(said.get("paused", ""))}  # not by an older runner


def _why_dead(said: dict[str, Any]) -> str:
    """Say by whom the file was left, if not by a process that is there."""
    pid = said["pid"]
    if sys.platform != "linux":
        return "" if _exists(pid) else f"process {pid}, which is gone"
    if not f"{said['place']}:".startswith(f"{_place()}:"):
        return "another boot, or by another container"
    started = _started(pid)
    if started is None and _exists(pid):  # hidden, as another user's may be
        return ""
    return "" if started == said["started"] else f"process {pid}, which is gone"


def _place() -> str:
    """Return the boot and the pid namespace, with which the runner's place begins."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None: it can't be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return -1 if fields[0].decode() in (_ZOMBIE, _DEAD) else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # it is another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
