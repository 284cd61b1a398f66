"""What is the service manager told? A datagram socket of ours is the manager's."""

import json
import signal
import uuid

import psutil
import pytest

from .tools import Manager, job, wait_until


@pytest.fixture
def manager(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_ready_is_said_when_the_project_is_set_up(start, manager, gate, method):
    project = {
        "prepare": "tests.supervisor.targets:prepare_when_allowed",
        "environment": {"gate": str(gate)},
    }
    run = start(
        job("succeed"), project=project, start_method=method, command=manager.command()
    )
    run.wait_until(lambda: run.entries("renewed"))
    before = manager.lines().copy()

    gate.touch()
    manager.wait_for("READY=1")

    assert not any(line.startswith("READY") for line in before)
    run.wait_until(lambda: run.endings(1))
    assert run.stop() == 0, run.log
    assert manager.lines().count("READY=1") == 1


def test_ready_is_said_while_the_database_is_away(start, manager):
    run = start(job("succeed"), queue_is_down=True, command=manager.command())

    manager.wait_for("READY=1")
    away = "STATUS=0 of 1 workers busy, 0 tasks held; the database is away"
    manager.wait_for(away)
    run.journal.with_suffix(".down").unlink()
    run.wait_until(lambda: run.endings(1))

    manager.wait_for("STATUS=0 of 1 workers busy, 0 tasks held")
    assert run.stop() == 0, run.log


@pytest.mark.parametrize("broken", ["unusable", "project"])
def test_ready_is_not_said_of_what_cannot_work(start, manager, broken):
    how = (
        {"queue": {"unusable": "migrate was forgotten"}}
        if broken == "unusable"
        else {"project": {"prepare": "tests.supervisor.targets:prepare_badly"}}
    )
    run = start(job("succeed"), command=manager.command(), **how)

    assert run.finish() == 1, run.log
    assert "READY=1" not in manager.lines()


def test_stopping_is_said_when_the_drain_begins(start, manager, pid, gate):
    run = start(job("wait", pid, gate), command=manager.command(), drain_timeout=600)
    run.wait_until(pid.exists)
    manager.wait_for("STATUS=1 of 1 workers busy, 1 tasks held")
    before = manager.lines().copy()

    run.send(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    manager.wait_for("STATUS=Stopping: 1 of 1 workers busy, 1 tasks held")
    gate.touch()

    assert "STOPPING=1" not in before
    assert run.finish() == 0, run.log
    assert manager.lines().count("STOPPING=1") == 1


def test_a_wait_without_a_bound_is_no_stop_of_which_the_manager_counts_the_time(
    start, manager, pid, gate
):
    run = start(job("wait", pid, gate), command=manager.command())
    run.wait_until(pid.exists)

    run.send(signal.SIGTSTP)
    manager.wait_for("STATUS=Stopping: 1 of 1 workers busy, 1 tasks held")
    gate.touch()

    assert run.finish() == 0, run.log
    assert "STOPPING=1" not in manager.lines()


def test_the_watchdog_hears_of_the_loop_and_of_nothing_else(start, manager):
    command = manager.command(WATCHDOG_USEC="200000")
    run = start(command=command, lease=1.5)
    for _ in range(3):
        manager.forget()
        manager.wait_for("WATCHDOG=1")

    run.send(signal.SIGSTOP)
    stopped = psutil.Process(run.process.pid)
    wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED)
    manager.forget()
    renewed = len(run.entries("renewed"))
    run.wait_until(lambda: len(run.entries("renewed")) >= renewed + 3)
    frozen = manager.lines().copy()
    run.send(signal.SIGCONT)

    assert frozen == []
    manager.wait_for("WATCHDOG=1")
    assert run.stop() == 0, run.log


def test_the_watchdog_is_heard_of_through_a_drain(start, manager, pid, gate):
    command = manager.command(WATCHDOG_USEC="200000")
    run = start(job("wait", pid, gate), command=command, drain_timeout=600)
    run.wait_until(pid.exists)

    run.send(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    manager.forget()
    manager.wait_for("WATCHDOG=1")
    gate.touch()

    assert run.finish() == 0, run.log


@pytest.mark.parametrize(("whose", "beats"), [("$$", True), ("1", False)])
def test_a_watchdog_of_another_process_is_not_answered(
    start, manager, pid, gate, whose, beats
):
    script = f'export WATCHDOG_PID={whose}; exec "$@"'
    command = [*manager.command(WATCHDOG_USEC="200000"), "sh", "-c", script, "sh"]
    run = start(job("wait", pid, gate), command=command)
    run.wait_until(pid.exists)
    manager.wait_for("STATUS=1 of 1 workers busy, 1 tasks held")
    gate.touch()
    manager.wait_for("STATUS=0 of 1 workers busy, 0 tasks held")

    assert run.stop() == 0, run.log
    assert ("WATCHDOG=1" in manager.lines()) is beats


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_no_other_process_can_speak_for_the_service(
    start, manager, tmp_path, pid, method
):
    said = tmp_path / "environment"
    # Of a service of its own type each of them is for the main process alone.
    script = 'export WATCHDOG_PID=$$; exec "$@"'
    command = [*manager.command(WATCHDOG_USEC="9000000"), "sh", "-c", script, "sh"]
    jobs = job("say_environment", said), job("wait", pid)
    run = start(*jobs, command=command, start_method=method, drain_timeout=0)
    run.wait_until(pid.exists)
    ours = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    others = [
        process.environ()
        for process in run.processes()
        if process.pid != run.process.pid
        # The driver has started it before.
        and "resource_tracker" not in " ".join(process.cmdline())
    ]

    assert len(others) >= 3
    assert not [found for environment in others if (found := ours & set(environment))]
    assert not ours & set(json.loads(said.read_text()))
    assert run.stop() == 0, run.log
    assert ours <= set(run.result["after"]["environment"])
    assert run.result["after"]["environment"] == run.result["before"]["environment"]


def test_an_abstract_socket_is_found(start, tmp_path):
    manager = Manager(f"@{uuid.uuid4().hex}")
    with manager.socket:
        run = start(job("succeed"), until_empty=True, command=manager.command())

        assert run.finish() == 0, run.log
        assert "READY=1" in manager.lines()


def test_a_manager_that_does_not_listen_holds_nothing_up(start, manager, tmp_path):
    """Its queue is full after some ten datagrams."""
    marks = tmp_path / "marks"
    jobs = [job("write", marks, "x") for _ in range(30)]
    command = manager.command(WATCHDOG_USEC="2000")
    run = start(*jobs, until_empty=True, command=command)

    assert run.finish() == 0, run.log
    assert len(marks.read_text().splitlines()) == 30
    assert len(manager.lines()) < 60


@pytest.mark.parametrize(
    "address", ["", "relative", "/no/such/socket", "vsock:2:1", "@"]
)
def test_an_address_that_is_none_changes_nothing(start, address):
    command = ["env", f"NOTIFY_SOCKET={address}", "WATCHDOG_USEC=x"]
    run = start(job("succeed"), until_empty=True, command=command)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
