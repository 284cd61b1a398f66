"""What the operating system knows of processes is read without surprises."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid

import psutil
import pytest

from background_task.supervisor import processes

from .tools import wait_until

_NOBODY = 65534


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


@pytest.fixture
def place_of(spawn):
    """Return what a process says of its place that has become this user's."""

    def ask(user):
        code = (
            "import os; from background_task.supervisor import processes as p; "
            f"os.setuid({user}); print(p.place())"
        )
        process = spawn(sys.executable, "-c", code, stdout=subprocess.PIPE, text=True)
        return process.communicate()[0].strip()

    return ask


def test_all_processes_of_a_user_in_a_namespace_have_the_same_place(place_of):
    assert place_of(os.geteuid()) == processes.place()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_users_processes_are_in_another_place(place_of):
    theirs = place_of(_NOBODY)

    assert theirs.rpartition(":")[0] == processes.place().rpartition(":")[0]
    assert theirs != processes.place()


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

    def named():
        return sorted(psutil.Process(pid).name() for pid in processes.tree(process.pid))

    wait_until(lambda: named() == ["sh", "sh", "sleep", "sleep"])
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


def test_a_signal_to_what_is_another_users_is_told_to_have_failed(sleeper):
    code = (
        "import os, sys\n"
        "from background_task.supervisor import processes\n"
        f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})\n"
        "pid = int(sys.argv[1])\n"
        "pidfd = processes.handle(pid)\n"
        "print(processes.send_signal(pid, pidfd, 9))\n"
        "print(processes.send_signal(pid, None, 9))\n"
        "processes.kill_all([pid])\n"
    )
    if os.getuid() != 0:
        pytest.skip("Only root can become another user")

    command = [sys.executable, "-W", "error", "-c", code, str(sleeper.pid)]
    said = subprocess.run(command, capture_output=True, text=True)

    assert (said.stdout, said.stderr) == ("False\nFalse\n", "")
    assert sleeper.poll() is None


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


@pytest.fixture
def thread():
    """A thread of this process, which has a number as processes have."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield thread
    over.set()
    thread.join()


def test_a_thread_that_has_the_number_now_is_no_supervisor(thread):
    processes.kill_supervisor(thread.native_id, 1)


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

    wait_until(lambda: orphan.name() == "sleep")  # it has become that by then
    orphan.kill()


# Where other users' processes are hidden


@pytest.fixture(scope="module")
def hidden():
    """Return a function that runs code as another user, where /proc is hidden.

    On a mount of its own: to mount /proc again would hide it from everybody.
    """

    def hidden(how, code):
        mount = f"mount -t proc -o hidepid={how} proc /proc"
        run = f'{mount} && exec {sys.executable} -W error -c "$0"'
        become = "import os\nfrom background_task.supervisor import processes\n"
        become += f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})\n"
        command = ["unshare", "--mount", "sh", "-c", run, become + code]
        return subprocess.run(command, capture_output=True, text=True)

    probe = hidden("invisible", "print(os.path.exists('/proc/1'))")
    if probe.stdout != "False\n":
        pytest.skip(f"No /proc can be hidden here: {probe.stderr}")
    return hidden


@pytest.mark.parametrize("how", ["noaccess", "invisible"])
def test_of_a_hidden_process_it_is_known_that_it_is_there(hidden, sleeper, how):
    start = processes.started(sleeper.pid)

    said = hidden(how, f"print(processes.presence({sleeper.pid}, {start}))")

    assert said.stdout == "hidden\n", said.stderr


@pytest.mark.parametrize("how", ["noaccess", "invisible"])
def test_what_is_gone_is_gone_where_processes_are_hidden_too(hidden, gone, how):
    said = hidden(how, f"print(processes.presence({gone.pid}, 1))")

    assert said.stdout == "gone\n", said.stderr


@pytest.mark.parametrize("how", ["noaccess", "invisible"])
@pytest.mark.parametrize(
    "look",
    [
        "list(processes.marked('nobody'))",
        "processes.started(pid)",
        "processes.children(pid)",
        "list(processes.tree(pid))",
        "processes.kill_supervisor(pid, 1)",
        "processes.kill_all([pid])",
        "processes.threads(pid)",
        "processes.name(pid)",
        "processes.is_unexecuted_fork(pid)",
        "memory.own_of_tree(pid, pid)",
        "memory.of_tree(pid)",
    ],
)
def test_no_look_at_a_hidden_process_fails(hidden, sleeper, how, look):
    memory = "from background_task.supervisor import memory\n"
    said = hidden(how, f"{memory}pid = {sleeper.pid}\n{look}")

    assert (said.returncode, said.stderr) == (0, "")
    assert sleeper.poll() is None


def test_a_process_that_is_there_is_told_from_one_that_has_its_pid(sleeper, zombie):
    start = processes.started(sleeper.pid)

    assert processes.presence(sleeper.pid, start) == "there"
    assert processes.presence(sleeper.pid, start - 1) == "gone"
    assert processes.presence(zombie.pid, 1) == "gone"


def test_a_process_whose_first_thread_has_ended_is_no_zombie(spawn):
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = spawn(sys.executable, "-c", code)

    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)

    assert processes.started(process.pid) is not None
