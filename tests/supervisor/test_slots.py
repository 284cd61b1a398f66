"""Children that never come, and starts that fail together."""

import os
from dataclasses import replace

import pytest

from background_task.supervisor import clock
from background_task.supervisor.job import Job, Project
from background_task.supervisor.launcher import Launcher
from background_task.supervisor.slots import Slots
from background_task.supervisor.watch import Watch

from .tools import channels, job

JOB = Job(id=1, name="a job", target="no.such:job", args=None, claim="claim")


@pytest.fixture
def launcher():
    """A launcher of which the test is the far end."""
    launcher = Launcher(Project())
    with channels() as (launcher.channel, launcher.far_end):
        yield launcher


@pytest.fixture
def slots(launcher):
    """Slots whose children have no time to begin."""
    with Watch() as watch, Slots(launcher, watch, 0.0) as slots:
        yield slots


def answer(launcher):
    """Do what is asked, as a launcher that has lost every start."""
    for message in launcher.far_end.receive():
        if message["kind"] == "start":
            os.close(message["fds"][0])
        else:
            launcher.far_end.send("pong", grown_by=0)
    launcher.receive()


def test_a_child_is_waited_for_while_the_launcher_does_not_answer(launcher, slots):
    slots.start(JOB)
    launcher.ping()

    assert slots.never_came(clock.now()) == []


def test_an_answer_from_before_says_nothing_about_a_child(launcher, slots):
    launcher.ping()
    slots.start(JOB)
    answer(launcher)

    assert slots.never_came(clock.now()) == []


def test_a_child_that_the_launcher_has_lost_never_comes(launcher, slots):
    child = slots.start(JOB)
    launcher.ping()
    answer(launcher)

    assert slots.never_came(clock.now()) == [child]


def test_a_child_that_has_started_is_not_lost(launcher, slots):
    slots.start(JOB).started(os.getpid(), None)
    launcher.ping()
    answer(launcher)

    assert slots.never_came(clock.now()) == []


def test_children_that_fail_together_slow_the_starts_once(slots):
    together = [slots.start(JOB) for _ in range(3)]

    assert [slots.failed(child) for child in together] == [True, False, False]
    until = slots.backoff.until
    assert slots.failed(slots.start(JOB))
    assert slots.backoff.until > until


def test_what_is_no_task_has_a_process_of_its_own(launcher):
    announcer = replace(JOB, id=None, claim="announcer")
    with (
        Watch() as watch,
        Slots(launcher, watch, 60.0, tasks_per_process=9) as slots,
    ):
        child = slots.start(JOB)
        child.heed({"kind": "report", "verdict": "succeeded", "at": 0.0}, clock.now())
        child.heed({"kind": "idle"}, clock.now())
        child.testify()

        assert slots.start(announcer).number != child.number
        assert slots.start(JOB).number == child.number


def test_a_project_that_four_at_once_cannot_become_is_tried_again(start, tmp_path):
    project = {
        "prepare": "tests.supervisor.targets:prepare_badly_for_a_while",
        "environment": {"folder": str(tmp_path)},
    }
    run = start(
        *[job("succeed")] * 4,
        workers=4,
        project=project,
        start_method="spawn",
        until_empty=True,
    )

    assert run.finish() == 0, run.log

    for number in (1, 2, 3, 4):
        assert run.endings(number) == ["Released", "Succeeded"]
