"""What a fork of the template inherits, and what becomes of the template."""

import contextlib
import json
import os
import signal

import psutil
import pytest

from .tools import TARGETS, is_running, job, pid_in, wait_until

MIB = 1024 * 1024


@pytest.fixture
def said(tmp_path):
    return tmp_path / "said"


def a_project(folder, prepare="prepare_nothing", **environment):
    return {
        "prepare": TARGETS + prepare,
        "environment": {"folder": str(folder), **environment},
    }


def surroundings(said):
    return [json.loads(line) for line in said.read_text().splitlines()]


def test_a_task_is_a_process_of_its_own_that_inherits_nothing_of_the_launcher(
    start, said
):
    jobs = [job("say_surroundings", said) for _ in range(6)]
    run = start(*jobs, workers=2, until_empty=True)

    assert run.finish() == 0, run.log
    tasks = surroundings(said)
    assert len({task["pid"] for task in tasks}) == 6
    for task in tasks:
        assert task["session"] == task["group"] == task["pid"]
        assert task["sockets"] == 1, "its own channel"
        assert task["wakeup_fd"] == -1
        assert task["mask"] == []
        assert task["sigchld"] == str(signal.SIG_DFL)
        assert task["sigint"] in (
            str(signal.default_int_handler),
            "<built-in function default_int_handler>",
        )
        assert task["children"] == []
    assert len({task["random"] for task in tasks}) == 6


def test_many_tasks_in_few_slots_have_each_their_own(start, said):
    jobs = [job("say_surroundings", said) for _ in range(200)]
    run = start(*jobs, workers=8, until_empty=True)

    assert run.finish(120) == 0, run.log
    tasks = surroundings(said)
    assert len({task["pid"] for task in tasks}) == 200
    assert len({task["random"] for task in tasks}) == 200
    assert {task["sockets"] for task in tasks} == {1}
    assert len({str(task["files"]) for task in tasks}) == 1, "none has another's"
    assert [run.endings(n) for n in range(1, 201)] == [["Succeeded"]] * 200


def test_numpy_has_other_random_numbers_in_each_task_and_its_threads(start, said):
    run = start(
        *[job("say_random_numbers", said)] * 5,
        project={"prepare": TARGETS + "prepare_with_numpy"},
        workers=2,
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert "Tasks are spawned" not in run.log
    assert len({task["random"] for task in surroundings(said)}) == 5


def test_what_escaped_from_a_task_is_killed_when_it_ends_and_not_when_others_do(
    start, tmp_path
):
    gate, other_gate = tmp_path / "gate", tmp_path / "other gate"
    own, other = tmp_path / "daemon", tmp_path / "other daemon"
    run = start(
        job("wait_with_a_daemon", tmp_path / "pid", own, gate),
        job("wait_with_a_daemon", tmp_path / "other pid", other, other_gate),
        workers=2,
    )
    for pid in ("pid", "other pid"):
        pid_in(tmp_path / pid)

    gate.touch()
    run.wait_until(lambda: run.endings(1))
    wait_until(lambda: not is_running(pid_in(own)))
    assert is_running(pid_in(other))
    other_gate.touch()
    run.wait_until(lambda: run.endings(2))
    wait_until(lambda: not is_running(pid_in(other)))

    assert run.stop() == 0, run.log


def test_a_template_that_is_killed_under_load_loses_nothing_and_doubles_nothing(
    start, said
):
    jobs = [job("say_pid_in", said) for _ in range(150)]
    run = start(*jobs, workers=4)
    for some in (20, 60):
        run.wait_until(lambda some=some: len(run.ends()) >= some)
        os.kill(run.wait_for_pid("launcher"), signal.SIGKILL)
    run.wait_until(lambda: len(run.ends()) >= 150)

    assert run.stop() == 0, run.log
    endings = [run.endings(n) for n in range(1, 151)]
    assert [len(ending) for ending in endings] == [1] * 150
    crashed = endings.count(["Crashed"])
    assert endings.count(["Succeeded"]) == 150 - crashed
    assert crashed <= 2 * 4, "no more than what ran when the template was killed"


def test_the_projects_own_signal_handlers_stay(start, said, tmp_path):
    run = start(
        job("say_surroundings", said),
        project=a_project(tmp_path, "prepare_with_a_handler"),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert "on_hup_of_the_project" in surroundings(said)[0]["sighup"]


def test_the_project_is_set_up_once(start, tmp_path):
    run = start(
        *[job("succeed")] * 5,
        project=a_project(tmp_path, "prepare_once"),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert (tmp_path / "set up").read_text() == "x"


def test_threads_of_the_projects_imports_have_tasks_spawned(start, said, tmp_path):
    run = start(
        job("say_surroundings", said),
        job("succeed"),
        project=a_project(tmp_path, "prepare_with_a_thread"),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert run.endings(1) == run.endings(2) == ["Succeeded"]
    told = "Tasks are spawned, not forked: the project's imports have left threads"
    assert f"{told} running (left behind)" in run.log
    assert run.log.count(told) == 1


def test_sockets_of_the_projects_imports_are_told(start, tmp_path):
    run = start(
        job("succeed"),
        project=a_project(tmp_path, "prepare_with_a_socket"),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert "left sockets open, which every task shares: 127.0.0.1:" in run.log


def test_a_set_up_that_fails_is_told_once_and_ends_the_run(start, tmp_path):
    run = start(job("succeed"), project=a_project(tmp_path, "prepare_badly"))

    assert run.finish() == 1
    assert "RuntimeError: no such settings" in run.result["failure"]
    why = "The project cannot be set up: RuntimeError: no such settings"
    assert f"Cannot go on: {why}" in run.log
    assert "Traceback" not in run.log
    assert run.entries("claimed") == []


def test_a_set_up_that_fails_later_ends_the_run_too(start, tmp_path):
    pid = tmp_path / "pid"
    run = start(job("wait", pid), project=a_project(tmp_path, "prepare_only_once"))
    pid_in(pid)

    os.kill(run.pid_of("launcher"), signal.SIGKILL)

    assert run.finish() == 1
    assert "RuntimeError: the second time" in run.result["failure"]
    assert run.ending(1)["outcome"] == "Crashed"


def test_a_spare_that_is_killed_is_replaced_and_costs_nobody_anything(start, tmp_path):
    pid, gate = tmp_path / "pid", tmp_path / "gate"
    run = start(job("wait", pid, gate), *[job("succeed")] * 3, workers=1)
    pid_in(pid)
    spare = run.wait_for_pid("spare")

    psutil.Process(spare).kill()
    run.wait_for_pid("spare", other_than=spare)
    gate.touch()
    run.wait_until(lambda: run.endings(4))

    assert run.stop() == 0, run.log
    assert [run.endings(n) for n in (1, 2, 3, 4)] == [["Succeeded"]] * 4


def test_what_a_task_shares_with_the_template_is_not_its_own_memory(start, tmp_path):
    run = start(
        job("sleep", 1.0, memory=60 * MIB),
        job("hold_memory", 100 * MIB, 600, memory=60 * MIB),
        job("fork_idly", 4, 1.0, memory=60 * MIB),
        workers=3,
        project=a_project(tmp_path, "prepare_with_a_heap", mib=200),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"], run.ending(1)["says"]
    assert run.endings(2) == ["OutOfMemory"]
    assert 60 * MIB < run.ending(2)["used"] < 150 * MIB
    assert run.endings(3) == ["Succeeded"], run.ending(3)["says"]


def test_a_template_that_has_grown_is_renewed_when_nothing_runs(start, tmp_path):
    pid, gate = tmp_path / "pid", tmp_path / "gate"
    run = start(
        job("wait", pid, gate),
        project=a_project(tmp_path, "prepare_to_grow", mib=200),
    )
    pid_in(pid)
    template = run.pid_of("launcher")
    os.kill(template, signal.SIGUSR1)  # it grows
    run.wait_until(lambda: (tmp_path / "grown").exists())

    gate.touch()

    run.wait_for_pid("launcher", other_than=template)
    run.wait_for_log("renewing it")
    assert run.stop() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_what_a_task_forks_has_no_part_in_its_try(start, said, how):
    run = start(job("fork_and_return", said, how), until_empty=True)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    (fork,) = surroundings(said)
    assert fork["sigterm"] == str(signal.SIG_DFL)
    assert fork["sockets"] == 0


def test_what_a_task_forks_keeps_the_tasks_own_handler(start, said):
    run = start(job("fork_deafly", said), until_empty=True)

    assert run.finish() == 0, run.log
    assert "on_hup_of_the_project" in surroundings(said)[0]["sigterm"]


def test_a_term_to_a_spare_is_none_to_the_task_that_it_takes(start, tmp_path):
    pid, gate = tmp_path / "pid", tmp_path / "gate"
    run = start(job("wait", pid, gate), *[job("succeed")] * 4, workers=1)
    pid_in(pid)
    run.wait_for_pid("spare")

    for process in run.processes():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] == ["background_task: spare"]:
                process.terminate()
    gate.touch()
    run.wait_until(lambda: run.endings(5))

    assert run.stop() == 0, run.log
    assert [run.endings(n) for n in (1, 2, 3, 4, 5)] == [["Succeeded"]] * 5
