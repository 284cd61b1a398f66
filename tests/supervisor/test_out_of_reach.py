"""What cannot be killed ends no process of ours, is told, and holds nobody up."""

import ctypes
import os
import signal
import subprocess

import psutil
import pytest

from .tools import is_running, job, pid_in, wait_until

_PTRACE_SEIZE = 0x4206


@pytest.fixture(scope="module")
def powerless():
    """Return the command that runs a program as a user who can't kill another's."""
    command = ["setpriv", "--bounding-set=-kill"]
    become = "--reuid=65534"
    kill = "import os; os.kill(int(os.environ['OTHER']), 9)"
    try:
        other = ["setpriv", become, "--clear-groups", "sleep", "600"]
        with subprocess.Popen(other) as process:
            wait_until(lambda: psutil.Process(process.pid).uids().real == 65534)
            subprocess.run(
                [*command, "python3", "-c", kill],
                env={**os.environ, "OTHER": str(process.pid)},
                capture_output=True,
            )
            spared = process.poll() is None
            process.kill()
    except OSError as error:
        pytest.skip(f"Nobody can be made another user here: {error}")
    except AssertionError:
        spared = False
    if not spared:
        pytest.skip("Nobody can be made another user here")
    return command


def test_an_orphan_that_cannot_be_killed_is_told_and_holds_up_no_end(
    start, powerless, pid
):
    run = start(
        job("leave_another_users_process_behind", pid),
        job("succeed"),
        workers=1,
        command=powerless,
    )

    orphan = pid_in(pid)
    run.wait_until(lambda: run.endings(2))
    alive = is_running(orphan)
    log = run.log
    os.kill(orphan, signal.SIGKILL)

    assert alive
    assert f"Killed, and still there after 5 s: {orphan} (sleep). They are " in log
    assert run.endings(1) == run.endings(2) == ["Succeeded"]
    assert "The launcher" not in log
    assert run.stop() == 0, run.log


def test_an_orphan_that_cannot_be_killed_does_not_keep_the_launcher_from_being_replaced(
    start, powerless, pid, tmp_path
):
    run = start(
        job("leave_another_users_process_behind", pid),
        job("wait", tmp_path / "waits"),
        job("succeed"),
        workers=2,
        command=powerless,
    )
    orphan = pid_in(pid)
    pid_in(tmp_path / "waits")

    os.kill(run.pid_of("launcher"), signal.SIGKILL)
    run.wait_until(lambda: run.endings(3))
    log = run.log
    os.kill(orphan, signal.SIGKILL)

    assert f"Killed, and still there after 5 s: {orphan} (sleep). They are " in log
    assert run.endings(2) == ["Crashed"]
    assert run.stop() == 0, run.log


def test_an_orphan_that_cannot_be_killed_does_not_keep_the_supervisor_from_leaving(
    start, powerless, pid
):
    run = start(
        job("leave_another_users_process_behind", pid),
        command=powerless,
        until_empty=True,
    )

    orphan = pid_in(pid)
    run.wait_until(lambda: run.process.poll() is not None)
    alive = is_running(orphan)
    os.kill(orphan, signal.SIGKILL)

    assert alive
    assert run.finish() == 0, run.log


def test_a_task_that_cannot_be_killed_is_told_and_stops_no_other(start, powerless, pid):
    run = start(
        job("become_another_user", pid, seconds=0.5, grace=0.2),
        *[job("succeed")] * 3,
        workers=2,
        command=powerless,
    )

    task = pid_in(pid)
    run.wait_for_log(f"process {task} has become another user's and cannot be killed")
    run.wait_until(lambda: run.endings(4))
    waited_for = run.endings(1) == []
    os.kill(task, signal.SIGKILL)
    run.wait_until(lambda: run.endings(1))

    assert waited_for
    assert run.endings(1) == ["TimedOut"]
    assert run.stop() == 0, run.log


def test_a_task_that_cannot_be_killed_does_not_keep_the_supervisor_from_leaving(
    start, powerless, pid
):
    run = start(
        job("become_another_user", pid, grace=0.2),
        command=powerless,
        drain_timeout=0.1,
    )
    task = pid_in(pid)
    wait_until(lambda: psutil.Process(task).uids().real == 65534)

    run.send(signal.SIGTERM)
    run.wait_until(lambda: run.process.poll() is not None)
    alive = is_running(task)
    os.kill(task, signal.SIGKILL)

    assert alive
    assert run.finish() == 75, run.log
    assert "Could not write the end of 1 tries" in run.result["failure"]


def test_a_zombie_that_its_tracer_holds_holds_up_no_end(start, pid, tmp_path):
    gate, left = tmp_path / "gate", tmp_path / "left"
    run = start(
        job("leave_a_subprocess_behind_at_the_gate", pid, left, gate), until_empty=True
    )
    orphan = pid_in(left)
    if ctypes.CDLL(None).ptrace(_PTRACE_SEIZE, orphan, None, None) != 0:
        pytest.skip("Nothing can be traced here")

    gate.touch()
    run.wait_until(lambda: run.process.poll() is not None)
    held = psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
    os.waitpid(orphan, 0)

    assert held
    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert "still there" not in run.log
