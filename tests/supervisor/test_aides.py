"""The supervisor's aides die, hang, freeze and lose touch; the jobs are still run."""

import contextlib
import ctypes
import os
import signal

import psutil
import pytest

from .tools import begun, is_running, job

LONG = 600.0
PTRACE_SEIZE, WALL = 0x4206, 0x40000000


@contextlib.contextmanager
def traced(pid):
    """Be a debugger: what is traced can't be reaped by its parent."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_SEIZE, pid, None, None):
        pytest.skip(f"no process may be traced: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)  # nobody but us could have reaped it
        os.waitpid(pid, WALL)


# The launcher


@pytest.mark.parametrize(
    ("number", "why"),
    [(signal.SIGKILL, "died"), (signal.SIGSTOP, "does not answer")],
    ids=["killed", "frozen"],
)
def test_a_launcher_takes_its_tasks_along_and_is_replaced(start, tmp_path, number, why):
    pids = [tmp_path / "pid1", tmp_path / "pid2", tmp_path / "daemon"]
    run = start(
        job("wait", pids[0]),
        job("wait_with_a_daemon", pids[1], pids[2]),
        *[job("succeed")] * 4,
        workers=2,
        lease=6.0,
        until_empty=True,
    )
    for path in pids:
        begun(run, path)
    launcher = run.pid_of("launcher")

    os.kill(launcher, number)

    assert run.finish() == 0, run.log
    assert run.endings(1) == run.endings(2) == ["Crashed"]
    assert run.ending(1)["exitcode"] is None
    assert [run.endings(n) for n in (3, 4, 5, 6)] == [["Succeeded"]] * 4
    assert f"The launcher {why}; it is replaced" in run.log


def test_what_carries_no_mark_is_dead_before_its_try_has_ended(start, tmp_path):
    pids = [tmp_path / "program", tmp_path / "task", tmp_path / "daemon"]
    run = start(
        job("become_another_program", pids[0]),
        job("have_a_daemon_with_nothing", pids[1], pids[2]),
        workers=2,
    )
    program, _, daemon = (begun(run, path) for path in pids)
    run.wait_until(lambda: psutil.Process(program).name() == "sleep")

    os.kill(run.pid_of("launcher"), signal.SIGKILL)
    run.wait_until(lambda: run.endings(1) and run.endings(2))
    alive = list(map(is_running, [program, daemon]))
    status = run.stop()

    for pid in (program, daemon):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert alive == [False, False]
    assert run.endings(1)[0] == run.endings(2)[0] == "Crashed"
    assert status == 0, run.log


def test_nothing_without_a_mark_outlives_a_run_whose_launcher_is_killed(
    start, tmp_path
):
    program = tmp_path / "program"
    run = start(job("become_another_program", program), drain_timeout=0.1)
    pid = begun(run, program)
    run.wait_until(lambda: psutil.Process(pid).name() == "sleep")

    run.send(signal.SIGTERM)
    os.kill(run.pid_of("launcher"), signal.SIGKILL)
    status = run.finish()
    alive = is_running(pid)

    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert not alive
    assert status == 0, run.log


def test_what_had_reported_when_the_launcher_died_has_succeeded(start, tmp_path):
    lingering = tmp_path / "lingering"
    run = start(job("report_and_linger", lingering, grace=LONG), until_empty=True)
    begun(run, lingering)  # it flushes its log after its report

    os.kill(run.pid_of("launcher"), signal.SIGKILL)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


@pytest.mark.parametrize("start_method", ["template", "spawn"])
def test_a_launcher_is_not_taken_for_frozen_while_the_project_is_set_up(
    start, gate, start_method
):
    project = {
        "prepare": "tests.supervisor.targets:prepare_when_allowed",
        "environment": {"gate": str(gate)},
    }
    run = start(
        job("succeed"),
        project=project,
        lease=9.0,
        until_empty=True,
        start_method=start_method,
    )

    # A launcher that is ready has to answer within a third of the lease.
    run.wait_until(lambda: len(run.entries("renewed")) > 2)
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert "replaced" not in run.log


# The bookkeeper


def test_a_bookkeeper_that_is_killed_is_replaced_and_nothing_is_lost(start, pid, gate):
    count = 8
    run = start(
        job("wait", pid, gate),
        *[job("succeed")] * (count - 1),
        workers=3,
        until_empty=True,
    )
    begun(run, pid)
    first = run.pid_of("bookkeeper")

    os.kill(first, signal.SIGKILL)
    run.wait_for_pid("bookkeeper", other_than=first)
    gate.touch()

    assert run.finish() == 0, run.log
    for number in range(1, count + 1):
        # One that was claimed, and killed before it said so, never started.
        *released, last = run.endings(number)
        assert set(released) <= {"Released"}
        assert last == "Succeeded"
    assert run.endings(1) == ["Succeeded"]
    assert len(run.runners()) == 1


def test_no_task_is_stopped_for_a_bookkeeper_that_freezes(start, pid, gate):
    run = start(
        job("wait", pid, gate), workers=2, lease=15.0, grace=0.1, until_empty=True
    )
    begun(run, pid)
    first = run.pid_of("bookkeeper")

    os.kill(first, signal.SIGSTOP)
    run.wait_for_pid("bookkeeper", other_than=first)
    renewed = len(run.entries("renewed"))
    run.wait_until(lambda: len(run.entries("renewed")) > renewed + 1)
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert "The bookkeeper does not answer; it is replaced" in run.log


def test_limits_act_while_the_bookkeeper_hangs(start, pid):
    run = start(job("wait_deaf", pid, seconds=2, grace=0.1), until_empty=True)
    task = begun(run, pid)
    os.kill(run.pid_of("bookkeeper"), signal.SIGSTOP)

    run.wait_until(lambda: not is_running(task))
    os.kill(run.pid_of("bookkeeper"), signal.SIGCONT)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["TimedOut"]


def test_a_bookkeeper_that_dies_again_and_again_is_replaced_more_slowly(start):
    run = start(job("succeed"), queue={"broken": "not to be read"}, lease=60.0)

    run.wait_for_log("The bookkeeper died; it is replaced in 4 s")
    assert "The bookkeeper failed\nTraceback" in run.log
    assert "not to be read" in run.log

    run.send(signal.SIGTERM)
    assert run.finish() == 0, run.log
    assert len(run.entries("renewed")) >= 3


def test_nothing_is_said_to_be_due_before_the_dead_are_rescued(start):
    died = ["a ghost", "here", "this place", 2**22 + 1, 1]  # no such pid can be
    run = start(job("succeed"), queue={"dead": [died]}, until_empty=True)

    assert run.finish() == 0, run.log
    assert [entry["runner"] for entry in run.entries("rescued")] == ["a ghost"]


def test_what_goes_wrong_with_others_stops_no_work_and_is_told_rarely(start):
    run = start(
        *[job("succeed")] * 20, workers=1, queue={"unrescuable": "not to be rescued"}
    )

    run.wait_until(lambda: all(run.endings(n) for n in range(1, 21)))

    assert run.stop() == 0, run.log
    assert "not to be rescued" in run.log
    assert run.log.count("could not be rescued") < 20
    assert "it is replaced" not in run.log


def test_limits_act_while_a_bookkeeper_cannot_be_reaped(start, pid):
    """As one that hangs in the kernel: a killed one that is traced stays, too."""
    job_one = job("wait_deaf", pid, seconds=4, grace=0.1)
    run = start(job_one, job("succeed"), lease=3.0, grace=0.1, until_empty=True)
    task = begun(run, pid)
    first = run.pid_of("bookkeeper")

    with traced(first):
        os.kill(first, signal.SIGSTOP)
        run.wait_for_log("The bookkeeper does not answer; it is replaced")
        run.wait_until(lambda: not is_running(task))
        run.wait_until(lambda: run.endings(2) == ["Succeeded"])

    assert run.finish() == 0, run.log
    assert run.endings(1)[-1] == "TimedOut"


# The queue


def test_limits_act_while_the_queue_is_away_and_are_written_when_it_is_back(start, pid):
    run = start(
        job("wait_deaf", pid, seconds=2, grace=0.1), job("succeed"), until_empty=True
    )
    task = begun(run, pid)

    with run.queue_down():
        run.wait_until(lambda: not is_running(task))
        assert run.endings(1) == []

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["TimedOut"]
    assert run.endings(2) == ["Succeeded"]
    assert "is available again" in run.log


def test_what_ended_while_the_queue_was_away_is_written_in_its_order(start, tmp_path):
    pids = [tmp_path / f"pid {n}" for n in (1, 2, 3)]
    gates = [tmp_path / f"gate {n}" for n in (1, 2, 3)]
    jobs = [job("wait", *paths) for paths in zip(pids, gates, strict=True)]
    run = start(*jobs, workers=3, until_empty=True)
    tasks = [begun(run, pid) for pid in pids]

    with run.queue_down():
        for number in (2, 3, 1):
            gates[number - 1].touch()
            pid = tasks[number - 1]
            run.wait_until(lambda pid=pid: not is_running(pid))

    assert run.finish() == 0, run.log
    assert [entry["id"] for entry in run.ends()] == [2, 3, 1]
    assert run.log.count("is unavailable: ") == 1
    assert run.log.count("is available again") == 1


def test_a_queue_that_is_away_from_the_first_is_waited_for(start):
    run = start(job("succeed"), until_empty=True, queue_is_down=True)
    run.wait_for_log("is unavailable: ")

    run.journal.with_suffix(".down").unlink()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_a_commit_of_which_nobody_knows_is_not_made_twice(start, pid, gate):
    run = start(job("wait", pid, gate), job("succeed"), until_empty=True)
    begun(run, pid)

    run.journal.with_suffix(".unsure").touch()
    gate.touch()

    assert run.finish() == 0, run.log
    assert not run.journal.with_suffix(".unsure").exists()
    assert run.endings(1) == ["Succeeded"]
    assert run.endings(2)[-1] == "Succeeded"


def test_what_cannot_be_written_in_the_end_is_named(start, pid, gate):
    run = start(job("wait", pid, gate), drain_timeout=LONG)
    begun(run, pid)

    with run.queue_down():
        run.send(signal.SIGTERM)
        gate.touch()

        assert run.finish() == 75, run.log

    assert "task 1 (tests.supervisor.targets:wait)" in run.result["failure"]
    assert run.endings(1) == []


def test_an_outcome_that_cannot_be_recorded_is_lost_and_stops_no_other(start):
    run = start(
        *[job("raise_error")] * 4, workers=2, queue={"poisoned": [2]}, until_empty=True
    )

    assert run.finish() == 0, run.log

    assert run.endings(2) == ["Lost"]
    assert [run.endings(n) for n in (1, 3, 4)] == [["Failed"]] * 3


def test_a_job_whose_end_cannot_be_recorded_at_all_is_abandoned(start):
    jobs = [job("succeed"), job("succeed"), job("os_exit", 3)]
    run = start(*jobs, queue={"cursed": [2, 3]}, until_empty=True)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    says = {entry["id"]: entry["says"] for entry in run.entries("abandoned")}
    assert says == {
        2: "It succeeded, but that could not be recorded: ValueError: Task 2 is cursed",
        3: "Lost: its end could not be recorded: ValueError: Task 3 is cursed",
    }


def test_a_job_that_cannot_even_be_abandoned_stops_no_other(start):
    run = start(*[job("succeed")] * 4, workers=2, queue={"doomed": [2]})

    run.wait_until(lambda: all(run.endings(n) for n in (1, 3, 4)))
    bookkeeper = run.pid_of("bookkeeper")
    run.wait_for_log("Recording the end of 2:")
    run.send(signal.SIGTERM)

    assert run.finish() in (0, 75), run.log
    assert bookkeeper
    assert "The bookkeeper died" not in run.log


def test_a_queue_that_is_unusable_ends_the_run_with_its_text(start):
    run = start(job("succeed"), queue={"unusable": "Run manage.py migrate first"})

    assert run.finish() == 1

    assert run.result["failure"] == "Run manage.py migrate first"
    assert "ERROR Cannot go on: Run manage.py migrate first" in run.log
    assert "Stopped; every end is recorded" not in run.log
    assert run.entries("claimed") == []


# The lease


def test_a_runner_that_was_fenced_off_kills_all_and_begins_anew(start, pid, tmp_path):
    daemon = tmp_path / "daemon"
    run = start(
        job("wait_with_a_daemon", pid, daemon), job("succeed"), workers=2, lease=6.0
    )
    task = begun(run, pid)
    hidden = begun(run, daemon)
    (first,) = run.runners()
    run.wait_until(lambda: run.endings(2))
    pid.unlink()

    run.write(event="fenced", runner=first)
    second = begun(run, pid)

    assert not is_running(task)
    assert not is_running(hidden)
    assert second != task
    assert len(set(run.runners())) == 2
    assert run.endings(1) == []  # others had it: nothing of it was ours to write
    assert run.stop() == 0, run.log


def test_one_that_begins_anew_looks_anew_for_what_is_due(start, pid, tmp_path):
    gate = tmp_path / "gate"
    run = start(job("wait", pid, gate), workers=2, lease=6.0, until_empty=True)
    begun(run, pid)
    renewed = len(run.entries("renewed"))
    # Meanwhile it has found that nothing else is due.
    run.wait_until(lambda: len(run.entries("renewed")) > renewed + 1)
    pid.unlink()

    run.write(event="fenced", runner=run.runners()[0])
    begun(run, pid)
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]


def test_when_the_lease_cannot_be_renewed_what_runs_is_released(start, pid, tmp_path):
    unwound = tmp_path / "unwound"
    run = start(job("unwind", unwound, pid), lease=9.0, grace=2.0, drain_timeout=0.1)
    task = begun(run, pid)

    with run.queue_down():
        run.wait_until(lambda: not is_running(task))
        assert unwound.exists()
        run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1)[0] == "Released"
    says = run.entries("recorded", id=1)[0]["says"]
    assert says == "Released: the lease of 9 s could not be renewed"
    assert run.log.count("unwind): the lease of 9 s could not be renewed") == 1
    assert "it is replaced" not in run.log  # it hears of the outage all the time


def test_the_lease_is_renewed_before_anything_else_is_done(start, pid, gate):
    run = start(job("wait", pid, gate), job("succeed"), workers=1, until_empty=True)
    task = begun(run, pid)

    with run.queue_down():
        before = len(run.all_entries())
        gate.touch()
        run.wait_until(lambda: not is_running(task))

    assert run.finish() == 0, run.log
    after = [entry["event"] for entry in run.all_entries()[before:]]
    assert after[:2] == ["renewed", "recorded"]


def test_nothing_is_started_under_a_lease_that_has_run_out(start, pid):
    run = start(job("wait", pid), job("succeed"), lease=3.0, grace=0.5, workers=1)
    task = begun(run, pid)

    with run.queue_down():
        run.wait_until(lambda: not is_running(task))
        assert run.endings(2) == []
    run.wait_until(lambda: run.endings(2))

    assert run.endings(2) == ["Succeeded"]
    assert run.stop() == 0
