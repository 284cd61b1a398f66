"""What is measured of a system on its stage, and how."""

import contextlib
import random
import statistics
import time
from typing import Any

from . import processes
from .limits import LIMIT
from .records import Stalled
from .stage import Failed, Stage

Values = dict[str, Any]
SLOTS = 2, 8
BUSY_SLOTS = 8
_DRAIN = 5.0  # seconds that a drain is to last
_PATIENCE = 30.0  # seconds without any progress until a runner is given up
_IDLE = 10.0  # seconds over which an idle runner's CPU is counted
_SAMPLES, _SAMPLING = 40, 15.0  # start latencies, and the seconds for all of them
_CALLS = 400
_LOOKS = 40
_HOGS = 10
_VISITS = 15  # to each page


def drain(stage: Stage, task: str, slots: int, rate: float, scale: float) -> Values:
    """Enqueue, then start the runner; return the tasks per second.

    The first quarter is not timed: runners of several processes are still starting.
    `rate` is how fast it may be, so that it takes some seconds.
    """
    n = max(4 * slots, min(8_000, round(rate * _DRAIN * scale)))
    stage.ask("enqueue", kind=task, n=n)
    stage.start(slots)
    at = sorted(record.at for record in _wait_for(stage, n))
    first = n // 4
    return {"n": n, "rate": (n - 1 - first) / (at[-1] - at[first])}


def idle(stage: Stage, scale: float) -> Values:
    """Measure an idle runner: its CPU, its memory, how soon a task starts.

    Milliseconds, bytes, and the fraction of a core.
    """
    stage.start(BUSY_SLOTS)
    stage.ask("put", kind="noop", number=0)
    _wait_for(stage, 1)
    processes.settle(runner.pid for runner in stage.runners)
    values: Values = {"idle_cpu": _idle_cpu(stage, max(1.0, _IDLE * scale))}
    values["pss_idle"] = processes.memory(stage.pids, "pss")
    latencies = _latencies(stage, scale)
    values["latencies"] = latencies
    values["p50"] = statistics.median(latencies)
    values["p95"] = statistics.quantiles(latencies, n=20, method="inclusive")[-1]
    return values | _busy_memory(stage)


def _idle_cpu(stage: Stage, seconds: float) -> float:
    pids = stage.pids
    before, began = processes.cpu(pids), time.monotonic()
    time.sleep(seconds)
    return (processes.cpu(pids) - before) / (time.monotonic() - began)


def _latencies(stage: Stage, scale: float) -> list[float]:
    """Enqueue one task after the other; return how long after that each began."""
    samples, until = max(3, round(_SAMPLES * scale)), time.monotonic() + _SAMPLING
    found: list[float] = []
    while len(found) < samples and (len(found) < 3 or time.monotonic() < until):
        time.sleep(random.uniform(0.1, 0.3))
        done = len(stage.records)
        put_at = stage.ask("put", kind="noop", number=done)["at"]
        began_at = _wait_for(stage, done + 1, every=0.002)[-1].at
        found.append((began_at - put_at) * 1e3)
    return found


def _busy_memory(stage: Stage) -> Values:
    """Have a task in every slot; return the memory of all, and of a task's process."""
    done = len(stage.records)
    for number in range(BUSY_SLOTS):
        stage.ask("put", kind="hold", number=number)
    with contextlib.suppress(Stalled):  # there may be fewer slots than were asked for
        stage.records.wait_for(done + BUSY_SLOTS, 10.0, stage.dead)
    running = stage.records.all()[done:]
    pss = processes.memory(stage.pids, "pss")
    pids = {record.pid for record in running}
    uss = [processes.memory(processes.tree([pid]), "uss") for pid in pids]
    (stage.folder / "release").touch()
    alone = stage.system.isolation == "process per task"
    return {
        "pss_busy": pss,
        "busy_tasks": len(running),
        "uss_task": statistics.median(uss) if alone and uss else None,
    }


def enqueue(stage: Stage, scale: float) -> Values:
    """Return the microseconds of a call, and of a plain `Task.objects.create`."""
    return stage.ask("enqueue_cost", n=max(20, round(_CALLS * scale)))


def overshoot(stage: Stage, scale: float) -> Values:
    """Return by how much of their limit tasks overshoot that take memory at speed.

    By their own word, which is their last before they are killed.
    """
    stage.start(1)
    n, found = max(1, round(_HOGS * scale)), []
    for number in range(n):
        done = len(stage.records)
        stage.ask("put", kind="hog", number=number)
        stage.ask("wait_for_ends", n=number + 1)
        reached = max(record.number for record in stage.records.all()[done:])
        found.append((reached - LIMIT) / LIMIT)
    return {"overshoots": found, "overshoot": statistics.median(found)}


def watch(stage: Stage, state: str, trees: int, scale: float) -> Values:
    """Return what part of a core the supervisor takes for so many tasks at rest."""
    stage.start(trees)
    for number in range(trees):
        stage.ask("put", kind=state, number=number)
    _wait_for(stage, trees)
    processes.settle(runner.pid for runner in stage.runners)
    (supervisor,) = (runner.pid for runner in stage.runners)
    before, began = processes.cpu([supervisor]), time.monotonic()
    time.sleep(max(1.0, _IDLE * scale))
    used = (processes.cpu([supervisor]) - before) / (time.monotonic() - began)
    (stage.folder / "release").touch()
    return {"supervisor_cpu": used}


def claims(stage: Stage, state: str, rows: int) -> Values:
    """Return the milliseconds of looks for eight tasks at so many rows in a state."""
    found = stage.ask("claims", state=state, rows=rows, n=_LOOKS)
    return found | {"look": statistics.median(found["took"])}


def pages(stage: Stage, rows: int, scale: float) -> Values:
    """Return the milliseconds of each page of the admin, by its name."""
    n = max(2, round(_VISITS * min(1, scale)))
    return stage.ask("pages", rows=rows, n=n)


def _wait_for(stage: Stage, n: int, every: float = 0.01) -> Any:
    try:
        return stage.records.wait_for(n, _PATIENCE, stage.dead, every)
    except Stalled as stalled:
        raise Failed(str(stalled)) from stalled
