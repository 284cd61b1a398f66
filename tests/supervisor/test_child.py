"""What a task's process says of its times is believed within reason."""

import contextlib
import math

import pytest

from background_task.supervisor import clock
from background_task.supervisor.channel import Channel, pair
from background_task.supervisor.child import Child
from background_task.supervisor.job import Job, Limits
from background_task.supervisor.outcome import Succeeded, TimedOut

JOB = Job(
    id=1,
    name="a job",
    target="no.such:job",
    args=None,
    claim="claim",
    limits=Limits(seconds=5.0),
)


@pytest.fixture
def child():
    ours, theirs = pair()
    with theirs, contextlib.closing(Channel(ours)) as channel:
        yield Child(1, JOB, channel, clock.now(), 60.0)


def test_its_time_runs_from_when_it_says_that_it_began(child):
    at = clock.now()

    child.heed({"kind": "begun", "at": at}, at + 1.0)

    assert child.deadline == at + 5.0


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0])
def test_a_moment_that_cannot_be_is_the_one_at_which_it_was_heard(child, at):
    now = clock.now() + 1.0

    child.heed({"kind": "begun", "at": at}, now)

    assert child.deadline == now + 5.0


@pytest.mark.parametrize("at", [math.nan, -math.inf, 0.0])
def test_a_success_in_time_is_not_one_that_says_so_only(child, at):
    began = clock.now()
    child.heed({"kind": "begun", "at": began}, began)
    child.stop(TimedOut(5.0, "MAX_RUN_TIME"), began + 5.0)

    child.heed({"kind": "report", "verdict": "succeeded", "at": at}, began + 6.0)

    assert child.outcome() == TimedOut(5.0, "MAX_RUN_TIME")


def test_a_success_from_before_it_was_stopped_is_one(child):
    began = clock.now()
    child.heed({"kind": "begun", "at": began}, began)
    child.stop(TimedOut(5.0, "MAX_RUN_TIME"), began + 5.0)

    said = {"kind": "report", "verdict": "succeeded", "at": began + 4.9}
    child.heed(said, began + 6.0)

    assert child.outcome() == Succeeded()
