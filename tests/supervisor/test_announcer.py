"""Is what has been recorded announced, once and in order, whatever receivers do?"""

import signal

import psutil
import pytest

from background_task.supervisor import announcer
from background_task.supervisor.options import ANNOUNCER

from .tools import TARGETS, job


@pytest.fixture
def told(tmp_path):
    """Where the announcer writes down what it announces."""
    return tmp_path / "told"


def announcing(told, vice="", at_task=0, discover="discover_listeners"):
    return {
        "prepare": f"{TARGETS}prepare_announcing",
        "discover": TARGETS + discover,
        "announce": f"{TARGETS}announce",
        "environment": {"announced": f"{told},{vice},{at_task}"},
    }


def lines(told):
    return told.read_text().splitlines() if told.exists() else []


def test_every_end_is_announced_once_in_the_order_of_the_books(start, told):
    jobs = [job("succeed"), job("os_exit", 3), job("succeed")]
    run = start(*jobs, project=announcing(told), until_empty=True)

    assert run.finish() == 0, run.log
    recorded = [f"{e['id']} {e['says']}".strip() for e in run.ends()]
    assert sorted(recorded)[0] == "1"
    assert lines(told) == recorded


def test_nobody_is_told_when_nobody_listens(start, told):
    project = announcing(told, discover="discover_no_listeners")
    run = start(job("succeed"), project=project, until_empty=True)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert lines(told) == []


def test_what_was_released_is_not_announced(start, tmp_path, told):
    pid = tmp_path / "pid"
    run = start(job("wait", pid), project=announcing(told), drain_timeout=0.2)
    run.wait_until(pid.exists)

    run.send(signal.SIGTERM)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Released"]
    assert lines(told) == []


def test_a_receiver_that_dies_costs_one_announcement_and_no_outcome(start, told):
    run = start(
        *[job("succeed") for _ in range(4)],
        project=announcing(told, "die", at_task=2),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert {number: run.endings(number) for number in range(1, 5)} == {
        number: ["Succeeded"] for number in range(1, 5)
    }
    assert sorted(lines(told)) == ["1", "2", "3", "4"]
    assert "Announcing the end of task 2 failed" in run.log
    assert "Crashed: the process exited with code 1 without a report" in run.log


def test_the_announcer_that_is_killed_is_followed_by_another(start, told):
    run = start(
        job("succeed"), job("succeed"), project=announcing(told, "hang", at_task=1)
    )
    run.wait_until(lambda: "1" in lines(told))
    hanging = run.wait_for_pid("announcer")
    run.wait_until(lambda: run.endings(2))

    run.send(signal.SIGTSTP)
    run.wait_for_log("SIGTSTP")
    psutil.Process(hanging).kill()

    assert run.finish() == 0, run.log
    assert sorted(lines(told)) == ["1", "2"]
    assert "Announcing the end of task 1 failed" in run.log


def test_a_stop_does_not_wait_for_receivers_that_hang(start, told):
    run = start(job("succeed"), project=announcing(told, "hang", at_task=1))
    run.wait_until(lambda: "1" in lines(told))
    run.wait_for_pid("announcer")

    assert run.stop() == 0, run.log
    assert "The end of these tasks was not announced: [1]" in run.log


def test_rows_that_cannot_be_loaded_are_announced_later(start, told):
    run = start(
        job("succeed"), project=announcing(told, "not loaded"), until_empty=True
    )

    assert run.finish() == 0, run.log
    assert lines(told) == ["not loaded", "1"]
    assert "Announcing the end of 1 tries has to wait" in run.log


def test_rows_that_are_too_much_at_once_are_announced_one_by_one(start, told):
    """One that is too much by itself is told of to nobody, and holds up no others."""
    run = start(
        *[job("succeed") for _ in range(6)],
        project=announcing(told, "too much", at_task=2),
        announcer={"memory": 100 * 1024**2, "seconds": 30.0},
        until_empty=True,
        tasks_per_process=6,
    )

    assert run.finish() == 0, run.log
    assert sorted(lines(told)) == ["1", "3", "4", "5", "6"]
    assert "Announcing the end of task 2 failed" in run.log


def test_receivers_that_take_too_long_are_stopped_and_the_rest_is_announced(
    start, told
):
    run = start(
        *[job("succeed") for _ in range(3)],
        project=announcing(told, "hang", at_task=2),
        announcer={"seconds": 1.0, "seconds_name": "the limit of receivers"},
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert sorted(lines(told)) == ["1", "2", "3"]
    assert "Announcing the end of task 2 failed" in run.log
    assert "Stopped after 1 s (the limit of receivers)" in run.log


def test_claims_wait_while_too_much_is_to_be_announced():
    waiting = announcer.Announcer(None, "", ANNOUNCER)
    waiting.add({"task": number} for number in range(announcer._BEHIND - 1))
    assert not waiting.behind
    waiting.add([{"task": 0}])
    assert waiting.behind


def test_slow_receivers_are_told_of_all_before_it_ends(start, told):
    """By one process after the other, each of them for longer than the last wait."""
    many = 3 * announcer._MOST + 5
    jobs = [job("succeed") for _ in range(many)]
    options = {"until_empty": True, "tasks_per_process": many}
    run = start(*jobs, project=announcing(told, "dawdle"), **options)

    assert run.finish() == 0, run.log
    assert len(lines(told)) == many
    assert "was not announced" not in run.log
