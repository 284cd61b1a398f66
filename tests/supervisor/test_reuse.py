"""A process that may run several tasks, and what ends that."""

import json
import os
import signal

import psutil
import pytest

from .tools import TARGETS, is_running, job, pid_in

MIB = 1024 * 1024


@pytest.fixture(params=["template", "spawn"])
def reuse(request, start):
    """Start a supervisor whose processes run up to three tasks."""

    def start_it(*jobs, tasks_per_process=3, **how):
        how = {"start_method": request.param, **how}
        return start(*jobs, tasks_per_process=tasks_per_process, **how)

    return start_it


@pytest.fixture
def said(tmp_path):
    return tmp_path / "said"


def pids(said):
    return [int(line) for line in said.read_text().splitlines()]


def finished(run, *endings):
    """Wait for the end of a run that went well; these are its tasks' endings."""
    assert run.finish() == 0, run.log
    found = [run.endings(number) for number in range(1, len(endings) + 1)]
    assert found == [[ending] for ending in endings], run.log


def processes_of(pids):
    """Return how many tasks one process after the other has run."""
    runs = []
    for number, pid in enumerate(pids):
        if number and pid == pids[number - 1]:
            runs[-1] += 1
        else:
            runs.append(1)
    assert len(set(pids)) == len(runs)
    return runs


def test_a_process_runs_as_many_tasks_as_it_may_and_then_a_new_one(reuse, said):
    run = reuse(*[job("say_pid_in", said)] * 7, until_empty=True)

    finished(run, *["Succeeded"] * 7)
    assert processes_of(pids(said)) == [3, 3, 1]


def test_without_it_every_task_has_a_process_of_its_own(reuse, said):
    run = reuse(*[job("say_pid_in", said)] * 3, tasks_per_process=1, until_empty=True)

    finished(run, *["Succeeded"] * 3)
    assert processes_of(pids(said)) == [1, 1, 1]


def test_several_processes_are_reused_side_by_side(reuse, said):
    run = reuse(*[job("say_pid_in", said)] * 12, workers=3, until_empty=True)

    finished(run, *["Succeeded"] * 12)
    assert 4 <= len(set(pids(said))) <= 6


def test_a_task_that_fails_does_not_end_the_reuse(reuse, said):
    run = reuse(
        job("say_pid_in", said),
        job("say_pid_and_fail", said),
        job("say_pid_in", said),
        until_empty=True,
    )

    finished(run, "Succeeded", "Failed", "Succeeded")
    assert "ValueError: as it should" in run.ending(2)["says"]
    assert processes_of(pids(said)) == [3]


@pytest.mark.parametrize(
    ("what", "ending"),
    [
        (["sleep", 600], "TimedOut"),
        (["swallow_the_stop"], "TimedOut"),
        (["os_exit", 3], "Crashed"),
        (["segfault"], "Crashed"),
        (["die_by", signal.SIGKILL], "Crashed"),
        (["sys_exit", 0], "Failed"),
        (["die_by", signal.SIGTERM], "Failed"),
        (["die_by", signal.SIGINT], "Failed"),
    ],
    ids=lambda value: str(value),
)
def test_what_ends_a_task_by_force_ends_the_reuse(reuse, said, what, ending):
    run = reuse(
        job("say_pid_in", said),
        job("do_and_say", said, *what, seconds=1.0 if ending == "TimedOut" else None),
        job("say_pid_in", said),
        until_empty=True,
    )

    finished(run, "Succeeded", ending, "Succeeded")
    assert processes_of(pids(said)) == [2, 1]


def test_a_task_may_take_its_time_though_others_took_theirs(reuse, said):
    jobs = [job("do_and_say", said, "sleep", 0.7, seconds=1.5)] * 3
    run = reuse(*jobs, until_empty=True)

    finished(run, *["Succeeded"] * 3)
    assert processes_of(pids(said)) == [3]


def test_a_signal_that_a_task_did_not_heed_ends_the_reuse(reuse, said):
    run = reuse(
        job("term_itself_in_passing", said),
        job("say_pid_in", said),
        until_empty=True,
    )

    finished(run, "Succeeded", "Succeeded")
    assert processes_of(pids(said)) == [1, 1]


def test_a_thread_that_has_ended_does_not_end_the_reuse(reuse, said):
    run = reuse(*[job("start_a_thread_and_join_it", said)] * 3, until_empty=True)

    finished(run, *["Succeeded"] * 3)
    assert processes_of(pids(said)) == [3]


@pytest.mark.parametrize("what", ["leave_a_thread_in", "leave_a_zombie_in"])
def test_what_a_task_leaves_in_its_process_ends_the_reuse(reuse, said, what):
    run = reuse(job(what, said), job("say_pid_in", said), until_empty=True)

    finished(run, "Succeeded", "Succeeded")
    assert processes_of(pids(said)) == [1, 1]


def test_a_process_that_is_left_over_is_swept_before_another_task_begins(
    reuse, said, tmp_path
):
    left = tmp_path / "left"
    run = reuse(
        job("leave_a_subprocess_in", said, left),
        job("say_pid_in", said),
        sleep=0.1,
    )

    run.wait_until(lambda: run.endings(1))
    assert not is_running(pid_in(left)), "its end is recorded when it is swept"
    run.wait_until(lambda: run.endings(2))

    assert run.stop() == 0, run.log
    assert processes_of(pids(said)) == [1, 1]


def test_what_a_task_changes_of_its_process_the_next_one_finds_unchanged(reuse, said):
    run = reuse(
        job("write_surroundings", said),
        job("change_the_surroundings", said),
        job("write_surroundings", said),
        until_empty=True,
    )

    finished(run, *["Succeeded"] * 3)
    before, changed, after = map(json.loads, said.read_text().splitlines())
    assert before == after
    assert changed["pid"] == before["pid"]
    assert not [key for key in before if before[key] == changed[key] and key != "pid"]


def test_memory_that_a_task_has_left_in_the_process_does_not_end_the_next(reuse, said):
    run = reuse(
        job("leak", said, 150 * MIB),
        job("do_and_say", said, "sleep", 0.5, memory=120 * MIB),
        until_empty=True,
    )

    finished(run, "Succeeded", "Succeeded")
    assert processes_of(pids(said)) == [1, 1]


def test_the_memory_of_a_later_task_is_limited(reuse, said):
    run = reuse(
        job("say_pid_in", said),
        job("do_and_say", said, "hold_memory", 200 * MIB, 600, memory=120 * MIB),
        job("say_pid_in", said),
        until_empty=True,
    )

    finished(run, "Succeeded", "OutOfMemory", "Succeeded")
    assert processes_of(pids(said)) == [2, 1]


def idle(run):
    return run.wait_for_pid("idle")


@pytest.fixture
def second(tmp_path):
    """The second task is due when it is there."""
    return tmp_path / "second"


def idle_between(reuse, said, second, **how):
    """Start a run of two tasks; return it and the process that has run the first."""
    run = reuse(
        job("succeed"),
        job("say_pid_in", said),
        queue={"gates": {"2": str(second)}},
        **how,
    )
    return run, idle(run)


def test_a_process_that_is_idle_leaves_when_the_runner_is_stopped(reuse, said):
    run = reuse(job("say_that_it_leaves", said))
    pid = idle(run)
    run.wait_until(lambda: run.endings(1))

    run.send(signal.SIGTERM)

    finished(run, "Succeeded")
    assert said.read_text() == f"{pid} leaves\n"


def test_a_process_that_can_take_no_other_task_tidies_up(reuse, said):
    run = reuse(job("say_that_it_leaves_with_a_thread", said), until_empty=True)

    finished(run, "Succeeded")
    assert said.read_text().endswith(" leaves\n")


def test_the_end_of_a_try_is_recorded_while_its_process_is_idle(reuse, said):
    run = reuse(job("say_pid_in", said))

    run.wait_until(lambda: run.endings(1))

    assert is_running(idle(run))
    assert run.stop() == 0, run.log


def test_a_later_task_of_a_process_is_given_back_when_the_runner_is_stopped(
    reuse, said, tmp_path
):
    pid, unwound = tmp_path / "pid", tmp_path / "unwound"
    run = reuse(job("say_pid_in", said), job("unwind", unwound, pid))
    assert pid_in(pid) == pid_in(said)

    assert run.stop() == 0, run.log

    assert run.endings(1) == ["Succeeded"]
    assert run.endings(2) == ["Released"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_killed_while_idle_costs_nobody_anything(
    reuse, said, tmp_path, number
):
    pid, gate = tmp_path / "pid", tmp_path / "gate"
    run = reuse(
        job("wait", pid, gate),
        job("say_pid_in", said),
        queue={"gates": {"2": str(tmp_path / "second")}},
    )
    pid_in(pid)
    gate.touch()
    first = idle(run)

    os.kill(first, number)
    (tmp_path / "second").touch()

    run.wait_until(lambda: run.endings(2))
    assert run.stop() == 0, run.log
    assert pids(said) != [first]
    assert run.endings(1) == run.endings(2) == ["Succeeded"]


def test_a_job_handed_to_a_process_that_is_dying_goes_to_another(reuse, said, second):
    """It is stopped, so that it is still there for the supervisor, and killed then."""
    run, first = idle_between(reuse, said, second, sleep=0.1)
    run.wait_until(lambda: run.endings(1))  # it has been heard that the process idles
    os.kill(first, signal.SIGSTOP)
    second.touch()
    run.wait_until(lambda: run.entries("claimed", id=2))

    run.wait_until(lambda: psutil.Process(run.process.pid).cmdline()[0].find("1/1") > 0)
    os.kill(first, signal.SIGKILL)

    run.wait_until(lambda: run.endings(2))
    assert run.stop() == 0, run.log
    assert run.endings(2) == ["Succeeded"]
    assert len(run.entries("claimed", id=2)) == 1
    assert pids(said) != [first]


def test_a_launcher_that_dies_takes_the_idle_along(reuse, said, second):
    run, first = idle_between(reuse, said, second)

    os.kill(run.pid_of("launcher"), signal.SIGKILL)
    run.wait_until(lambda: not is_running(first))
    second.touch()

    run.wait_until(lambda: run.endings(2))
    assert run.stop() == 0, run.log
    assert run.endings(1) == run.endings(2) == ["Succeeded"]


def test_a_runner_that_is_declared_dead_takes_the_idle_along(reuse, said, second):
    run, first = idle_between(reuse, said, second, lease=2.0)
    run.wait_until(lambda: run.endings(1))

    run.write(event="fenced", runner=run.runners()[0])
    run.wait_until(lambda: not is_running(first))
    second.touch()

    run.wait_until(lambda: run.endings(2))
    assert run.stop() == 0, run.log
    assert pids(said) != [first]


def test_a_supervisor_that_dies_takes_the_idle_along(reuse, said):
    run = reuse(job("succeed"))
    idle(run)

    run.vanish()


def test_a_template_that_has_grown_is_renewed_though_processes_are_idle(
    start, tmp_path
):
    run = start(
        job("succeed"),
        tasks_per_process=3,
        project={
            "prepare": TARGETS + "prepare_to_grow",
            "environment": {"folder": str(tmp_path), "mib": 200},
        },
    )
    idle(run)
    template = run.pid_of("launcher")

    os.kill(template, signal.SIGUSR1)

    run.wait_for_pid("launcher", other_than=template)
    assert run.stop() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_fork_that_returns_is_not_given_the_next_task(reuse, said, how, tmp_path):
    run = reuse(
        job("fork_and_return", tmp_path / "fork", how),
        job("say_pid_in", said),
        until_empty=True,
    )

    finished(run, "Succeeded", "Succeeded")
    assert len(pids(said)) == 1
