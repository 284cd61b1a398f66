"""What a task's process says of its times is believed within reason."""

import contextlib
import math

import pytest

from background_task.supervisor import clock
from background_task.supervisor.channel import Channel, pair
from background_task.supervisor.child import LONGEST_REST, Child
from background_task.supervisor.job import Job, Limits
from background_task.supervisor.outcome import Succeeded, TimedOut

from .tools import channels

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


@pytest.fixture
def reused():
    """A child that may run more jobs; the test is its process."""
    with channels() as (channel, far_end):
        child = Child(1, JOB, channel, clock.now(), 60.0, more=True)
        child.far_end = far_end
        yield child


def succeed(child, at):
    child.heed({"kind": "begun", "at": at}, at)
    child.heed({"kind": "report", "verdict": "succeeded", "at": at}, at)


def told(child):
    return [message["kind"] for message in child.far_end.receive()]


def test_one_that_has_reported_and_is_idle_can_be_handed_the_next_job(reused):
    now = clock.now()
    succeed(reused, now)

    reused.heed({"kind": "idle"}, now)

    assert (reused.over, reused.idle, reused.outcome()) == (True, True, Succeeded())
    following = reused.hand(JOB, now, 60.0, more=False)
    assert (following.over, following.idle, following.run) == (False, False, 2)
    assert told(reused) == ["job", "job"]


def test_one_that_has_not_reported_is_not_idle_whatever_it_says(reused):
    reused.heed({"kind": "begun", "at": clock.now()}, clock.now())

    reused.heed({"kind": "idle"}, clock.now())

    assert not reused.over


def test_one_of_which_no_more_was_asked_is_not_idle_whatever_it_says(child):
    succeed(child, clock.now())

    child.heed({"kind": "idle"}, clock.now())

    assert not child.over


def test_one_that_was_signalled_has_to_leave_whatever_it_says(reused):
    now = clock.now()
    reused.heed({"kind": "begun", "at": now}, now)
    reused.stop(TimedOut(5.0, "MAX_RUN_TIME"), now)
    reused.heed({"kind": "report", "verdict": "succeeded", "at": now}, now)

    reused.heed({"kind": "idle"}, now)

    assert not reused.over and not reused.idle
    assert told(reused) == ["job", "stop", "leave"]


def test_one_that_is_idle_for_long_has_to_leave(reused):
    now = clock.now()
    succeed(reused, now)
    reused.heed({"kind": "idle"}, now)

    reused.enforce_time(now + LONGEST_REST - 1.0)
    assert reused.idle
    reused.enforce_time(now + LONGEST_REST)

    assert reused.over and not reused.idle
    assert told(reused) == ["job", "leave"]
    assert reused.kill_at == now + LONGEST_REST + JOB.limits.grace


def test_one_that_rests_is_not_stopped_with_what_runs(reused):
    now = clock.now()
    succeed(reused, now)
    reused.heed({"kind": "idle"}, now)

    reused.stop(TimedOut(5.0, "MAX_RUN_TIME"), now)

    assert reused.kill_at is None
    assert reused.outcome() == Succeeded()
