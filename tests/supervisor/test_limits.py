"""Limits of memory and time that act, on whole trees, and on no others."""

import os
import signal
from dataclasses import dataclass

import pytest

from .tools import Run, job

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limited:
    """One run in which every job has ended."""

    run: Run
    numbers: dict

    def of(self, name):
        return self.run.ending(self.numbers[name])


@pytest.fixture(scope="module", params=["template", "spawn"])
def limited(request, start_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    jobs = {
        "mapped memory": job("map_shared_memory", 300 * MIB, memory=200 * MIB),
        "shared memory": job("share_memory", 300 * MIB, memory=200 * MIB),
        "together": job("hold_memory_in_subprocesses", 90 * MIB, 3, memory=200 * MIB),
        "in a session of its own": job(
            "hold_memory_in_a_session", 300 * MIB, memory=200 * MIB
        ),
        "mapped file": job("map_a_file", folder / "big", 600 * MIB, memory=200 * MIB),
        "threads": job("start_threads", 64, memory=200 * MIB),
        "short-lived children": job("start_short_lived_children", 50, memory=200 * MIB),
        "catching all": job("hold_and_catch", 300 * MIB, memory=200 * MIB, grace=0.3),
        "hard": job("allocate", 600 * MIB, memory=200 * MIB, hard_memory=True),
        "hard, but modest": job(
            "allocate", 50 * MIB, memory=200 * MIB, hard_memory=True
        ),
        "numpy": job("use_numpy", memory=400 * MIB),
    }
    run = start_once(
        *jobs.values(), workers=2, until_empty=True, start_method=request.param
    )
    assert run.finish(timeout=110) == 0, run.log
    return Limited(run, {name: n for n, name in enumerate(jobs, 1)})


@pytest.mark.parametrize(
    "name",
    [
        "mapped memory",
        "shared memory",
        "together",
        "in a session of its own",
        "catching all",
    ],
)
def test_what_holds_too_much_is_stopped(limited, name):
    ending = limited.of(name)

    assert ending["outcome"] == "OutOfMemory", ending
    assert ending["used"] > 200 * MIB
    assert "over the limit of 200 MiB" in ending["says"]
    assert ending["evidence"]["peak"] >= ending["used"]


@pytest.mark.parametrize(
    "name",
    ["mapped file", "threads", "short-lived children", "numpy", "hard, but modest"],
)
def test_what_holds_no_more_than_it_may_lives(limited, name):
    assert limited.of(name)["outcome"] == "Succeeded", limited.of(name)


def test_a_hard_limit_raises_where_the_memory_is_asked_for(limited):
    ending = limited.of("hard")

    assert ending["outcome"] == "OutOfMemory"
    assert "MemoryError at the hard limit of 200 MiB" in ending["says"]
    assert "in allocate" in ending["says"]


def test_what_a_task_inherits_does_not_count(start):
    """A template of 300 MB, a limit of 200: an idle one, a pool of four, a hog."""
    heavy = {
        "prepare": "tests.supervisor.targets:prepare_heavily",
        "environment": {"size": 300 * MIB},
    }
    run = start(
        job("sleep", 0.5, memory=200 * MIB),
        job("pool_of_four", 0.5, memory=200 * MIB),
        job("hold_memory", 100 * MIB, 1.0, memory=200 * MIB),
        job("hold_memory", 300 * MIB, 600, memory=200 * MIB),
        job("allocate", 100 * MIB, memory=200 * MIB, hard_memory=True),
        job("allocate", 300 * MIB, memory=200 * MIB, hard_memory=True),
        project=heavy,
        workers=2,
        until_empty=True,
    )

    assert run.finish(timeout=110) == 0, run.log
    endings = [run.endings(number)[0] for number in range(1, 7)]
    assert endings == [
        *["Succeeded"] * 3,
        "OutOfMemory",
        "Succeeded",
        "OutOfMemory",
    ]
    assert run.ending(1)["evidence"]["peak"] < 20 * MIB
    assert 50 * MIB < run.ending(3)["evidence"]["peak"] < 200 * MIB


def test_what_is_final_is_said_so(start):
    run = start(
        job("sleep", 600, seconds=0.2, timeout_is_final=True),
        job("hold_memory", 300 * MIB, 600, memory=200 * MIB, memory_is_final=True),
        job("sleep", 600, stall=0.2, timeout_is_final=True),
        job("sleep", 600, seconds=0.2),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    found = [run.ending(number)["permanent"] for number in (1, 2, 3, 4)]
    assert found == [True, True, True, False]


def test_a_kill_from_elsewhere_is_no_kill_of_the_kernels(start):
    run = start(job("die_by", signal.SIGKILL), until_empty=True)

    assert run.finish() == 0, run.log
    says = run.ending(1)["says"]
    assert "SIGKILL" in says
    assert "its supervisor" in says


# Admission by memory


def test_what_does_not_fit_waits_and_what_fits_goes_by(start, tmp_path):
    gate = tmp_path / "gate"
    run = start(
        job("wait", tmp_path / "first", gate, memory=300 * MIB),
        job("hold_memory", 1 * MIB, 0, memory=300 * MIB),
        job("succeed", memory=100 * MIB),
        workers=3,
        memory_budget=500 * MIB,
        lease=30.0,
    )
    run.wait_until(lambda: run.endings(3))
    assert run.endings(2) == []
    gate.touch()
    run.wait_until(lambda: run.endings(2))

    assert run.stop() == 0, run.log
    assert [run.endings(n) for n in (1, 2, 3)] == [["Succeeded"]] * 3


def test_what_can_never_fit_fails_for_good(start):
    run = start(
        job("succeed", memory=800 * MIB, memory_name="memory_limit of @background"),
        memory_budget=500 * MIB,
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    ending = run.ending(1)
    assert (ending["outcome"], ending["permanent"]) == ("Failed", True)
    assert "800 MiB (memory_limit of @background) can never be had" in ending["says"]
    assert "500 MiB together (--memory-budget)" in ending["says"]
    assert "have runners with a larger budget alone serve its queue" in ending["says"]


def _shared_memory():
    """Return what is there, but for what servers of PostgreSQL come and go with."""
    names = set(os.listdir("/dev/shm"))
    return {name for name in names if not name.startswith("PostgreSQL.")}


def test_nothing_of_it_stays_behind(start, tmp_path):
    run = start(job("share_memory", 300 * MIB, memory=200 * MIB), until_empty=True)
    before = _shared_memory()

    assert run.finish() == 0, run.log
    assert _shared_memory() - before == set()


def test_pools_of_processes_end_however_soon_they_are_ended(start):
    """A worker that has just been forked must not lose the SIGTERM of its pool."""
    number = 60
    run = start(
        *[job("pool_of_four", 0.0, seconds=30) for _ in range(number)],
        workers=6,
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert [run.endings(n) for n in range(1, number + 1)] == [["Succeeded"]] * number
