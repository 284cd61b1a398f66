"""What the container allows, as its control groups say it; who goes when it is full.

The groups are folders of the test: nobody but root may make real ones.
"""

import os
import signal

import pytest

from background_task.supervisor.admission import budget_of
from background_task.supervisor.container import Container, host_memory

from .tools import job, pid_in

MIB = 1024 * 1024


@pytest.fixture
def groups(tmp_path):
    """Return a function that writes a control group's files, and reads the groups."""
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    root.mkdir()

    def groups(files, memberships):
        for path, text in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        membership.write_text("".join(f"{line}\n" for line in memberships))
        return {"root": str(root), "membership": str(membership)}

    return groups


V2 = {
    "cgroup.controllers": "cpu memory pids",
    "memory.max": 1000 * MIB,
    "memory.current": 300 * MIB,
    "memory.stat": f"anon 5\ninactive_file {100 * MIB}\nactive_file 7",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2",
    "cpu.max": "250000 100000",
}


def test_version_2_is_read(groups):
    container = Container(**groups(V2, ["0::/"]))

    assert container.memory_limit() == 1000 * MIB
    assert container.memory_used() == 200 * MIB - 7
    assert container.oom_kills() == 2
    assert container.processors() == min(2, len(os.sched_getaffinity(0)))
    assert budget_of(container) == 900 * MIB


def test_the_lowest_limit_of_the_groups_counts_with_what_it_holds(groups):
    files = {
        **V2,
        "memory.max": "max",
        "pod/memory.max": 500 * MIB,
        "pod/memory.current": 400 * MIB,
        "pod/memory.stat": "inactive_file 0",
        "pod/box/memory.max": 900 * MIB,
        "pod/box/memory.current": 100 * MIB,
        "pod/box/memory.events": "oom_kill 9",
        "pod/cpu.max": "50000 100000",
    }
    container = Container(**groups(files, ["0::/pod/box"]))

    assert container.memory_limit() == 500 * MIB
    assert container.memory_used() == 400 * MIB
    assert container.oom_kills() == 9
    assert container.processors() == 1


def test_version_1_is_read(groups):
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/docker/box/memory.limit_in_bytes": 700 * MIB,
        "memory/docker/box/memory.usage_in_bytes": 200 * MIB,
        "memory/docker/box/memory.stat": f"total_inactive_file {50 * MIB}",
        "memory/docker/box/memory.oom_control": "oom_kill_disable 0\noom_kill 4",
        "cpu/docker/box/cpu.cfs_quota_us": 100000,
        "cpu/docker/box/cpu.cfs_period_us": 100000,
    }
    lines = ["4:memory:/docker/box", "3:cpu,cpuacct:/docker/box", "0::/"]
    container = Container(**groups(files, lines))

    assert container.memory_limit() == 700 * MIB
    assert container.memory_used() == 150 * MIB
    assert container.oom_kills() == 4
    assert container.processors() == 1


def test_a_path_of_the_host_is_the_root_of_the_container(groups):
    container = Container(**groups(V2, ["0::/../../kubepods/pod7/abc"]))

    assert container.memory_limit() == 1000 * MIB


def test_without_any_there_is_no_limit(groups):
    container = Container(**groups({}, []))

    assert container.memory_limit() is None
    assert container.memory_used() is None
    assert container.oom_kills() is None
    assert container.processors() == len(os.sched_getaffinity(0))
    assert budget_of(container) == int(host_memory() * 0.9)


def test_when_it_is_nearly_full_the_largest_goes(start, groups, tmp_path):
    gate = tmp_path / "gate"
    box = groups(V2, ["0::/"])
    run = start(
        job("wait", tmp_path / "small", gate, memory=900 * MIB),
        job("hold_memory_and_say", tmp_path / "large", 150 * MIB, 600),
        workers=2,
        container=box,
    )
    pid_in(tmp_path / "small")
    pid_in(tmp_path / "large")
    groups({"memory.current": 1060 * MIB}, ["0::/"])  # 960 that can't be dropped
    run.wait_until(lambda: run.endings(2))
    groups({"memory.current": 300 * MIB}, ["0::/"])
    gate.touch()
    run.wait_until(lambda: run.endings(1))

    assert run.stop() == 0, run.log
    ending = run.ending(2)
    assert ending["outcome"] == "OutOfMemory"
    assert "the most of all tasks, when the container held 960 MiB" in ending["says"]
    assert "of the 1000 MiB that it may (the container's memory" in ending["says"]
    assert "hold_memory_and_say" in ending["evidence"]["stack"]
    assert run.endings(1) == ["Succeeded"]


@pytest.mark.parametrize(
    ("kills", "says"),
    [
        (3, "the kernel has killed for want of memory (oom_kill 2 -> 3)"),
        (2, "as far as its control group tells the kernel was not out of memory"),
    ],
)
def test_a_kill_of_the_kernels_is_told_apart(start, groups, pid, kills, says):
    box = groups(V2, ["0::/"])
    run = start(job("wait", pid), container=box)
    task = pid_in(pid)
    groups({"memory.events": f"oom_kill {kills}"}, ["0::/"])
    os.kill(task, signal.SIGKILL)
    run.wait_until(lambda: run.endings(1))

    assert run.stop() == 0, run.log
    assert says in run.ending(1)["says"]


def test_workers_that_may_hold_too_much_together_are_warned_of(start, groups):
    run = start(
        job("succeed"),
        workers=4,
        memory=300 * MIB,
        container=groups(V2, ["0::/"]),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert "4 workers with a memory limit of 300 MiB each may hold 1200 MiB" in run.log
    assert "no more than 1000 MiB" in run.log
