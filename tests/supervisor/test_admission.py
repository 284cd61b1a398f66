"""What may start, so that the limits of memory fit into what there is."""

from types import SimpleNamespace

import pytest

from background_task.supervisor import admission, clock
from background_task.supervisor.admission import Admission
from background_task.supervisor.job import Job, Limits

MIB = 1024 * 1024


def job(name, size):
    limits = Limits(memory=None if size is None else size * MIB)
    return Job(id=1, name=name, target="m:f", args=None, claim="1@1", limits=limits)


def running(*sizes):
    return [SimpleNamespace(job=job("runs", size)) for size in sizes]


@pytest.fixture
def moment(monkeypatch):
    """A clock that the test turns."""
    moment = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(clock, "now", lambda: moment.now)
    return moment


def test_what_fits_and_what_has_no_limit_may_start(moment):
    gate = Admission(500 * MIB)

    assert gate.refusal(job("fits", 200), running(300, None)) is None
    assert gate.refusal(job("unlimited", None), running(500)) is None
    assert gate.news(running(500)) is None


def test_without_a_budget_everything_may(moment):
    gate = Admission(None)

    assert gate.refusal(job("huge", 10**6), running(10**6)) is None
    assert gate.news([]) is None


def test_what_does_not_fit_is_avoided_until_it_would(moment):
    gate = Admission(500 * MIB)

    refusal = gate.refusal(job("big", 300), running(400))

    assert refusal.ahead
    assert "300 MiB of memory were not free" in str(refusal)
    assert gate.news(running(400)) == (["big"], None)
    assert gate.news(running(400)) is None
    assert gate.news(running(100)) == ([], None)


def test_what_has_waited_long_has_the_next_turn(moment):
    gate = Admission(500 * MIB)
    for _ in range(8):
        gate.refusal(job("big", 300), running(400))
        moment.now += 10

    assert gate.news(running(400)) == (["big"], "big")
    assert gate.refusal(job("big", 300), running(100)) is None
    assert gate.news(running(100, 300)) == ([], None)


def test_what_is_gone_holds_nobody_up_for_long(moment):
    """Another runner has taken it, or a person has deleted it."""
    gate = Admission(500 * MIB)
    for _ in range(8):
        gate.refusal(job("big", 300), running(400))
        moment.now += 10
    gate.news(running(400))

    moment.now += admission._PROBED_AFTER - 10  # it is so long since the last refusal
    assert gate.news(running(400)) == ([], "big")  # is it still there?
    moment.now += admission._TO_BE_CLAIMED + 1
    assert gate.news(running(400)) == ([], None)
