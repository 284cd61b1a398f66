"""How does a supervisor stop: when asked to, when done, and when it is killed?"""

import contextlib
import os
import signal
import subprocess

import psutil
import pytest

from .tools import begun, is_running, job, pid_in, project_that, wait_until

LONG = 600.0
SLOW = range(1, 13)  # jobs, of `slow_forks`


# By signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_lets_what_runs_finish_and_claims_no_more(start, pid, gate, name):
    run = start(job("wait", pid, gate), job("succeed"), drain_timeout=LONG)
    begun(run, pid)

    run.send(signal.Signals[name])
    run.wait_for_log(f"{name}: what runs has {LONG:g} s to finish")
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert run.entries("claimed", id=2) == []


def test_what_does_not_finish_in_the_drain_time_is_released(start, pid):
    run = start(job("wait", pid), drain_timeout=0.5)
    begun(run, pid)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]
    assert run.ending(1)["says"] == "Released: the runner was stopped"


def test_what_is_stopped_by_the_drain_unwinds(start, pid, tmp_path):
    unwound = tmp_path / "unwound"
    run = start(job("unwind", unwound, pid, grace=LONG), drain_timeout=0.1)
    begun(run, pid)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]
    assert unwound.read_text() == "unwound"


def test_a_second_signal_kills_at_once(start, pid):
    run = start(job("wait_deaf", pid, grace=LONG), drain_timeout=LONG, grace=LONG)
    begun(run, pid)

    run.send(signal.SIGTERM)
    run.wait_for_log("SIGTERM: ")
    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]


def test_tstp_waits_for_what_runs_however_long_it_takes(start, pid, gate):
    run = start(job("wait", pid, gate), job("succeed"), drain_timeout=0.1)
    begun(run, pid)

    run.send(signal.SIGTSTP)
    run.wait_for_log("SIGTSTP: ")
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert run.entries("claimed", id=2) == []


def test_after_tstp_a_term_is_the_first_and_drains(start, pid, gate):
    run = start(job("wait", pid, gate), drain_timeout=LONG)
    begun(run, pid)

    run.send(signal.SIGTSTP)
    run.wait_for_log("SIGTSTP: ")
    run.send(signal.SIGTERM)
    run.wait_for_log("SIGTERM: what runs has")
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_a_signal_to_the_whole_group_reaches_no_task(start, pid, gate):
    """A terminal's Ctrl-C goes to every process of the foreground group."""
    run = start(job("wait", pid, gate), command=["setsid"], drain_timeout=LONG)
    begun(run, pid)

    os.killpg(os.getpgid(run.process.pid), signal.SIGINT)
    run.wait_for_log("SIGINT: ")
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_a_term_to_every_process_releases_what_runs(start, pid):
    """As systemd does to all processes of a unit."""
    run = start(job("wait", pid), drain_timeout=LONG)
    begun(run, pid)

    run.send(signal.SIGTERM)
    run.wait_for_log("SIGTERM: ")
    for process in run.processes():
        if process.pid != run.process.pid:
            with contextlib.suppress(psutil.NoSuchProcess):  # the last one ended it
                process.terminate()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]


def test_a_term_while_booting_is_heeded(start, pid):
    project = {
        "prepare": "tests.supervisor.targets:prepare_never",
        "environment": {"pid": str(pid)},
    }
    run = start(job("succeed"), project=project)
    begun(run, pid)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.entries("claimed") == []


@pytest.mark.parametrize("asked", [1, 2])
def test_a_term_while_the_template_forks_gives_back_what_has_not_begun(
    start, tmp_path, pid, gate, asked
):
    run, _ = slow_forks(start, tmp_path, pid, gate, drain_timeout=LONG)

    for _ in range(asked):
        run.send(signal.SIGTERM)
        run.wait_for_log("SIGTERM again" if "SIGTERM: " in run.log else "SIGTERM: ")
    gate.touch()

    assert run.finish() == 0, run.log
    for number in SLOW:
        assert len(run.entries("claimed", id=number)) == len(run.endings(number)) <= 1
        assert set(run.endings(number)) <= {"Succeeded", "Released"}


def test_a_template_that_hangs_in_a_fork_delays_the_end_no_longer_than_its_ping(
    start, tmp_path, pid, gate
):
    run, template = slow_forks(start, tmp_path, pid, gate, drain_timeout=0.1, lease=6)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert not is_running(template)
    for number in SLOW:
        assert len(run.entries("claimed", id=number)) == len(run.endings(number)) <= 1
        assert set(run.endings(number)) <= {"Succeeded", "Released"}


def slow_forks(start, tmp_path, pid, gate, **how):
    """Start one whose template forks no more when the first job runs; and wait.

    Some of the others may have been forked before.
    """
    slow, first = tmp_path / "slow", tmp_path / "first"
    project = {
        "prepare": "tests.supervisor.targets:prepare_slow_forks",
        "environment": {"slow": str(slow), "pid": str(pid), "gate": str(gate)},
    }
    jobs = [job("write", slow, "x"), *[job("write", first, "x")] * (len(SLOW) - 1)]
    run = start(*jobs, project=project, workers=2, **how)
    return run, begun(run, pid)


# While the queue is unavailable


def test_an_idle_one_stops_though_the_queue_has_never_been_there(start):
    run = start(job("succeed"), queue_is_down=True)
    run.wait_for_log("is unavailable: ")

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.entries("claimed") == []


@pytest.mark.parametrize("asked", [1, 2])
def test_what_runs_when_the_queue_is_away_to_the_end_is_left_to_rescue(
    start, pid, asked
):
    run = start(job("wait_deaf", pid, grace=0.1), drain_timeout=0.1)
    begun(run, pid)

    with run.queue_down():
        for _ in range(asked):
            run.send(signal.SIGTERM)
            run.wait_for_log("SIGTERM: ")
        status = run.finish()

    assert status == 75, run.log
    assert run.endings(1) == []
    assert "they are left to rescue: task 1 (" in run.result["failure"]
    assert run.result["failure"] in run.log
    assert "every end" not in run.log


def test_a_queue_that_comes_back_while_the_last_ends_wait_is_written(start, pid, gate):
    run = start(job("wait", pid, gate), drain_timeout=LONG)
    begun(run, pid)

    with run.queue_down():
        run.send(signal.SIGTERM)
        run.wait_for_log("SIGTERM: ")
        gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_a_bookkeeper_that_hangs_in_the_queue_holds_up_no_end(start, pid):
    run = start(job("wait", pid), drain_timeout=0.1)
    begun(run, pid)
    os.kill(run.pid_of("bookkeeper"), signal.SIGSTOP)

    run.send(signal.SIGTERM)

    assert run.finish() == 75, run.log
    assert run.endings(1) == []


def test_a_launcher_that_is_frozen_holds_up_no_end(start, pid):
    run = start(job("wait", pid), drain_timeout=0.1, lease=6)
    begun(run, pid)
    os.kill(run.pid_of("launcher"), signal.SIGSTOP)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]


# A task that does not want to


def test_a_task_that_is_deaf_to_term_is_killed_after_drain_and_grace(start, pid):
    run = start(job("wait_deaf", pid, grace=0.2), drain_timeout=0.1)
    task = begun(run, pid)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert not is_running(task)
    assert run.endings(1) == ["Released"]


# By itself


def test_it_stops_when_nothing_is_due(start):
    run = start(job("succeed"), job("succeed"), until_empty=True)

    assert run.finish() == 0, run.log

    assert run.endings(1) == run.endings(2) == ["Succeeded"]
    assert len(run.entries("closed")) == 1


def test_it_stops_when_nothing_is_due_from_the_first(start):
    run = start(until_empty=True)

    assert run.finish() == 0, run.log


def test_it_stops_after_its_duration_and_waits_for_what_runs(start, pid, gate):
    jobs = job("wait", pid, gate), job("succeed")
    for duration in (3, 10, 30):  # the first in which a job begins on this host
        run = start(*jobs, duration=duration, drain_timeout=0.1)
        run.wait_until(lambda run=run: pid.exists() or run.process.poll() is not None)
        if pid.exists():
            break

    run.wait_for_log(f"--duration {duration} s is over")
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert run.entries("claimed", id=2) == []


# What was claimed, and has not begun


def test_what_was_claimed_and_not_started_is_released(start, tmp_path):
    run = start(*[job("succeed")] * 5, **project_that("exit", tmp_path))
    # Starts are put off for 1 s, 2 s, ... when processes die while starting.
    run.wait_until(lambda: run.entries("claimed", id=3))

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(3) == ["Released"]
    assert "before it began" in run.ending(3)["says"]


def test_what_was_started_and_has_not_begun_is_released(start, tmp_path, pid):
    run = start(job("succeed"), **project_that("wait", tmp_path), drain_timeout=0.1)
    begun(run, pid)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]


def test_a_signal_to_everybody_before_a_task_has_begun_costs_no_attempt(
    start, tmp_path, pid
):
    run = start(job("succeed"), **project_that("wait", tmp_path), drain_timeout=LONG)
    task = begun(run, pid)

    run.send(signal.SIGTERM)
    run.wait_for_log("SIGTERM: ")
    os.kill(task, signal.SIGHUP)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]
    says = "Released: the runner was stopped before it began"
    assert run.ending(1)["says"] == says


def test_a_term_to_everybody_finds_a_starting_task_when_it_can_heed_it(
    start, tmp_path, pid
):
    run = start(job("succeed"), **project_that("wait", tmp_path), drain_timeout=LONG)
    task = begun(run, pid)

    run.send(signal.SIGTERM)
    run.wait_for_log("SIGTERM: ")
    os.kill(task, signal.SIGTERM)
    (tmp_path / "pid.gate").touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]
    assert run.ending(1)["says"] == "Released: the runner was stopped"


# What it leaves


def test_it_leaves_its_process_as_it_was(start, gate):
    gate.touch()
    run = start(job("succeed"), until_empty=True, bystander_until=gate)

    assert run.finish() == 0, run.log

    assert run.result["after"] == run.result["before"]
    assert run.result["unraisable"] == []
    assert "Warning" not in run.log


def test_it_steals_no_exit_status_of_a_child_that_is_not_its_own(start, pid, gate):
    run = start(job("wait", pid, gate), until_empty=True, bystander_until=gate)
    begun(run, pid)

    gate.touch()

    assert run.finish() == 0, run.log
    assert run.result["bystander"] == 7


# When it is killed


def test_nothing_outlives_a_supervisor_that_is_killed(start, tmp_path, pid):
    daemon = tmp_path / "daemon"
    run = start(
        job("wait_with_a_daemon", pid, daemon),
        job("wait_deaf", tmp_path / "deaf"),
        job("hide_in_a_subprocess", tmp_path / "hidden"),
        workers=3,
    )
    begun(run, pid)
    begun(run, tmp_path / "deaf")
    begun(run, tmp_path / "hidden")
    assert is_running(pid_in(daemon))

    run.vanish()

    assert run.processes() == []
    assert run.entries("recorded") == []


def test_no_import_outlives_a_supervisor_that_is_killed_meanwhile(start, pid):
    project = {
        "prepare": "tests.supervisor.targets:prepare_never",
        "environment": {"pid": str(pid)},
    }
    run = start(job("succeed"), project=project)
    begun(run, pid)

    run.vanish()

    assert run.processes() == []


# When nobody reads its log


@pytest.fixture
def full_pipe():
    """Yield the writing end of a pipe that has no room left."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


def test_a_full_log_pipe_does_not_stop_the_limits(full_pipe, start, pid, tmp_path):
    second = tmp_path / "second"
    run = start(
        job("wait_deaf", pid, seconds=0.5, grace=0.2),
        job("wait", second),
        stderr=full_pipe,
    )

    begun(run, second)

    assert run.endings(1) == ["TimedOut"]
    run.vanish()


def test_a_full_log_pipe_does_not_keep_it_from_leaving(full_pipe, start, pid, gate):
    run = start(job("wait", pid, gate), stderr=full_pipe)
    begun(run, pid)

    run.send(signal.SIGTERM)
    gate.touch()

    assert run.finish(timeout=15) == 0
    assert run.endings(1) == ["Succeeded"]


# As the first process of a container


@pytest.fixture(scope="module", params=[["--mount-proc"], []], ids=["", "outer proc"])
def unshare(request):
    """Return the command that makes a program PID 1 of a namespace of its own.

    With a /proc of its own, or with that of the namespace outside.
    """
    command = ["unshare", "--pid", "--fork", "--kill-child", *request.param]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"No pid namespace can be made here: {error}")
    return command


def first_process(run):
    """Return the process that is PID 1 in there, by its pid out here."""
    (first,) = wait_until(psutil.Process(run.process.pid).children)
    return first


def test_as_pid_1_it_heeds_term(start, unshare, pid, gate):
    run = start(job("wait", pid, gate), command=unshare, drain_timeout=LONG)
    begun(run, pid)

    first_process(run).send_signal(signal.SIGTERM)
    run.wait_for_log("SIGTERM: ")
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_as_pid_1_it_reaps_strangers_and_leaves_its_children_to_whoever_waits(
    start, unshare, pid, gate, tmp_path
):
    run = start(
        job("wait", pid, gate),
        command=unshare,
        until_empty=True,
        bystander_until=gate,
    )
    begun(run, pid)
    first = first_process(run)
    known = {child.pid for child in first.children()}

    # As `docker exec` does: the shell ends, and its child becomes PID 1's.
    inside = ["nsenter", "--target", str(first.pid), "--pid", "--mount"]
    script = 'sleep 600 & echo $! >"$0"'
    stranger = tmp_path / "stranger"
    subprocess.run([*inside, "sh", "-c", script, str(stranger)], check=True)
    (adopted,) = wait_until(lambda: [c for c in first.children() if c.pid not in known])
    adopted.kill()
    wait_until(lambda: not psutil.pid_exists(adopted.pid))
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.result["bystander"] == 7
    assert run.endings(1) == ["Succeeded"]


def test_as_pid_1_it_leaves_no_zombie_of_thousands_of_orphans(start, unshare, tmp_path):
    """Each task leaves a hundred daemons, which are killed when it has ended."""
    jobs = [job("leave_daemons_behind", 100) for _ in range(20)]
    last, gate = tmp_path / "last", tmp_path / "gate"
    run = start(*jobs, job("wait", last, gate), command=unshare, workers=2)
    most = 0
    while len(run.ends()) < 20:
        assert run.process.poll() is None, run.log
        most = max(most, len(zombies(run)))
    begun(run, last)
    wait_until(lambda: zombies(run) == [])
    gate.touch()
    run.wait_until(lambda: len(run.ends()) == 21)
    first_process(run).send_signal(signal.SIGTERM)

    assert run.finish() == 0, run.log
    print(f"{most} zombies at most")
    assert most < 500  # of two tasks: their daemons, and who has forked these
    for number in range(1, 22):
        assert run.endings(number) == ["Succeeded"]


def test_as_pid_1_it_reaps_thousands_of_strangers(start, unshare, pid, gate):
    """As those that a health check leaves behind, run by `docker exec`."""
    run = start(job("wait", pid, gate), command=unshare)
    begun(run, pid)
    first = first_process(run)
    inside = ["nsenter", "--target", str(first.pid), "--pid", "--mount"]
    script = "i=0; while [ $i -lt 2000 ]; do (true & ) ; i=$((i+1)); done"

    subprocess.run([*inside, "sh", "-c", script], check=True)
    wait_until(lambda: zombies(run) == [])
    gate.touch()
    run.wait_until(lambda: run.endings(1))
    first.send_signal(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_without_any_proc_of_its_own_it_says_so_and_does_not_begin(start, unshare):
    """Who may not mount gets none: it would take others' processes for its tasks."""
    if "--mount-proc" in unshare:
        pytest.skip("it has one")
    user = ["unshare", "--user", "--map-root-user", *unshare[1:]]
    if subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("No user namespace can be made here")
    run = start(job("succeed"), command=user)

    assert run.finish() == 1, run.log
    assert "/proc is that of another pid namespace" in run.log
    assert run.entries("claimed") == []


def zombies(run):
    """Return the zombies in the namespace of a run: all are PID 1's descendants."""
    found = []
    for process in first_process(run).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
