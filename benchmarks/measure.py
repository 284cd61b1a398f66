"""What is measured of a system on its stage, and how."""

import random
import statistics
import time
from typing import Any

from . import processes
from .records import Stalled
from .stage import Failed, Stage

Values = dict[str, Any]
SLOTS = 2, 8
BUSY_SLOTS = 8
_DRAIN = 5.0  # seconds that a drain is to last
_PATIENCE = 30.0  # seconds without any progress until a runner is given up
_IDLE = 10.0  # seconds over which an idle runner's CPU is counted
_SAMPLES, _SAMPLING = 40, 20.0  # start latencies, and the seconds for all of them
_CALLS = 400
_LOOKS = 40


def drain(stage: Stage, task: str, slots: int, rate: float, scale: float) -> Values:
    """Enqueue, then start the runner; return the tasks per second.

    The first quarter is not timed: runners of several processes are still starting.
    `rate` is how fast it may be, so that it takes some seconds.
    """
    n = max(8 * slots, min(20_000, round(rate * _DRAIN * scale)))
    stage.ask("enqueue", kind=task, n=n)
    stage.start(slots)
    at = sorted(record.at for record in _wait_for(stage, n))
    first = n // 4
    return {"n": n, "rate": (n - 1 - first) / (at[-1] - at[first])}


def idle(stage: Stage, scale: float) -> Values:
    """Measure an idle runner: its CPU and memory, how soon a task starts, what one adds.

    Milliseconds, bytes, and the fraction of a core.
    """
    stage.start(BUSY_SLOTS)
    stage.ask("put", kind="noop", number=0)
    _wait_for(stage, 1)
    processes.settle(runner.pid for runner in stage.runners)
    values: Values = {"idle_cpu": _idle_cpu(stage, max(1.0, _IDLE * scale))}
    values["pss_idle"] = processes.memory(stage.pids, "pss")
    values["latency"] = _latencies(stage, scale)
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
    running = {record.pid for record in _wait_for(stage, done + BUSY_SLOTS)[done:]}
    pss = processes.memory(stage.pids, "pss")
    uss = [processes.memory(processes.tree([pid]), "uss") for pid in running]
    (stage.folder / "release").touch()
    return {
        "pss_busy": pss,
        "uss_task": statistics.median(uss) if len(running) == BUSY_SLOTS else None,
    }


def enqueue(stage: Stage, scale: float) -> Values:
    """Return the microseconds of a call, and of a plain `Task.objects.create`."""
    return stage.ask("enqueue_cost", n=max(20, round(_CALLS * scale)))


def claims(stage: Stage, state: str, rows: int) -> Values:
    """Return the milliseconds of looks for eight tasks at so many rows in a state."""
    return stage.ask("claims", state=state, rows=rows, n=_LOOKS)


def _wait_for(stage: Stage, n: int, every: float = 0.01) -> Any:
    try:
        return stage.records.wait_for(n, _PATIENCE, stage.dead, every)
    except Stalled as stalled:
        raise Failed(str(stalled)) from stalled
