"""What the operating system knows of processes is read without surprises."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid

import psutil
import pytest

from background_task.supervisor import processes

from .tools import wait_until


@pytest.fixture
def spawn():
    """Return a function that starts a program; whatever it started is killed."""
    with contextlib.ExitStack() as stack:

        def spawn(*command, **how):
            process = stack.enter_context(subprocess.Popen(command, **how))
            stack.callback(process.kill)
            return process

        yield spawn


@pytest.fixture
def sleeper(spawn):
    return spawn("sleep", "600")


@pytest.fixture
def zombie(spawn):
    process = spawn("true")
    flags = os.WEXITED | os.WNOWAIT  # leave it unreaped
    os.waitid(os.P_PID, process.pid, flags)
    return process


@pytest.fixture
def gone(spawn):
    process = spawn("true")
    process.wait()
    return process


def test_all_processes_of_a_namespace_have_the_same_place(spawn):
    code = "from background_task.supervisor import processes as p; print(p.place())"
    process = spawn(sys.executable, "-c", code, stdout=subprocess.PIPE, text=True)

    assert process.communicate()[0].strip() == processes.place()


def test_a_process_started_once_and_for_all(sleeper):
    started = processes.started(sleeper.pid)

    assert isinstance(started, int)
    assert processes.started(sleeper.pid) == started
    assert started >= processes.started(os.getpid())


def test_a_process_may_carry_any_name(spawn, tmp_path):
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to("/bin/sleep")

    process = spawn(odd, "600")

    wait_until(lambda: psutil.Process(process.pid).name() == odd.name)
    assert isinstance(processes.started(process.pid), int)


def test_a_zombie_is_no_process_any_more(zombie):
    assert processes.started(zombie.pid) is None


def test_what_is_gone_never_started(gone):
    assert processes.started(gone.pid) is None


def test_children_are_known_until_they_are_reaped(sleeper, zombie):
    assert {sleeper.pid, zombie.pid} <= processes.children(os.getpid())


def test_what_is_gone_has_no_children(gone):
    assert processes.children(gone.pid) == set()


def test_a_tree_is_a_process_and_all_its_descendants(spawn):
    script = "sleep 600 & sh -c 'sleep 600 & wait' & wait"
    process = spawn("sh", "-c", script, start_new_session=True)

    wait_until(lambda: len(list(processes.tree(process.pid))) == 4)

    named = {psutil.Process(pid).name() for pid in processes.tree(process.pid)}
    assert named == {"sh", "sleep"}
    os.killpg(process.pid, signal.SIGKILL)


def test_the_tree_of_what_is_gone_is_a_bare_root(gone):
    assert list(processes.tree(gone.pid)) == [gone.pid]


def test_a_runners_mark_is_found_on_what_its_tasks_started(spawn):
    mark = uuid.uuid4().hex
    marked = spawn("sleep", "600", env={**os.environ, processes.MARK: mark})
    spawn("sleep", "600", env={**os.environ, processes.MARK: mark + "0"})
    spawn("sleep", "600", env={**os.environ, "X" + processes.MARK: mark})

    assert list(processes.marked(mark)) == [marked.pid]


def test_a_zombie_carries_no_mark(spawn):
    mark = uuid.uuid4().hex
    process = spawn("true", env={**os.environ, processes.MARK: mark})
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert list(processes.marked(mark)) == []


def test_a_signal_to_what_is_gone_is_nothing(spawn):
    process = spawn("true")
    pidfd = processes.handle(process.pid)
    process.wait()

    processes.send_signal(process.pid, pidfd, signal.SIGKILL)
    processes.send_signal(process.pid, None, signal.SIGKILL)

    os.close(pidfd)


def test_a_signal_by_pidfd_arrives(sleeper):
    pidfd = processes.handle(sleeper.pid)

    processes.send_signal(sleeper.pid, pidfd, signal.SIGTERM)

    assert sleeper.wait() == -signal.SIGTERM
    os.close(pidfd)


@pytest.fixture
def supervisor(spawn):
    """A process that calls itself a supervisor."""
    title = f"{processes.TITLE}, 0 of 1 running"
    process = spawn(title, "600", executable="/bin/sleep")
    wait_until(lambda: psutil.Process(process.pid).cmdline()[:1] == [title])
    return process


def test_a_supervisor_that_started_then_is_killed(supervisor):
    processes.kill_supervisor(supervisor.pid, processes.started(supervisor.pid))

    assert supervisor.wait() == -signal.SIGKILL


def test_a_supervisor_that_has_only_the_pid_is_spared(supervisor):
    processes.kill_supervisor(supervisor.pid, processes.started(supervisor.pid) - 1)

    assert supervisor.poll() is None


def test_a_process_that_is_no_supervisor_any_more_is_spared(sleeper):
    processes.kill_supervisor(sleeper.pid, processes.started(sleeper.pid))

    assert sleeper.poll() is None


def test_killing_what_is_gone_is_nothing(gone):
    processes.kill_supervisor(gone.pid, 1)
    processes.kill_all([gone.pid])


def test_an_adopter_gets_what_its_descendants_leave_behind(spawn):
    code = (
        "import subprocess\n"
        "from background_task.supervisor import processes\n"
        "processes.adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'sleep 600 >/dev/null & exit'])\n"
        "print('ready', flush=True)\n"
        "input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = spawn(sys.executable, "-c", code, **pipes)
    assert process.stdout.readline() == b"ready\n"

    (orphan,) = psutil.Process(process.pid).children()

    assert orphan.name() == "sleep"
    orphan.kill()
