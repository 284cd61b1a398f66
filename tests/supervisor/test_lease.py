"""The lease ends here before it ends in the database."""

import math

import pytest

from background_task.supervisor import clock
from background_task.supervisor.lease import SILENCE, Lease


def test_one_that_was_never_renewed_allows_nothing_and_ends_nothing():
    lease = Lease(30, grace=5)

    assert not lease.ever_renewed
    assert not lease.trusted
    assert lease.stop_at == lease.kill_at == math.inf


def test_it_is_trusted_once_renewed():
    lease = Lease(30, grace=5)

    lease.renewed(clock.now())

    assert lease.ever_renewed
    assert lease.trusted


def test_it_is_counted_from_when_the_renewal_was_sent():
    lease = Lease(30, grace=5)

    lease.renewed(clock.now() - 29)

    assert not lease.trusted


def test_all_is_asked_to_stop_a_grace_before_all_must_be_dead():
    lease = Lease(30, grace=5)

    lease.renewed(1000.0)

    assert lease.stop_at == 1000.0 + 30 - 1 - 5
    assert lease.kill_at == 1000.0 + 30 - 1


@pytest.mark.parametrize("length", [1, 3, 10, 30, 300])
@pytest.mark.parametrize("grace", [0.0, 1.0, 5.0, 1000.0])
def test_a_renewal_in_time_comes_before_anything_is_stopped(length, grace):
    lease = Lease(length, grace)

    lease.renewed(0.0)

    # It is renewed at every third of it; one renewal may be late.
    assert length / 3 < lease.stop_at <= lease.kill_at < length


@pytest.mark.parametrize("length", [1, 3, 10, 15, 30, 300])
@pytest.mark.parametrize("grace", [0.0, 1.0, 5.0, 1000.0])
def test_a_frozen_bookkeeper_is_replaced_before_anything_is_stopped(length, grace):
    lease = Lease(length, grace)

    lease.renewed(0.0)

    assert length / 3 < length * SILENCE
    assert length * (SILENCE + 0.2) <= lease.stop_at + 1e-9


def test_a_later_renewal_prolongs_it():
    lease = Lease(30, grace=5)
    lease.renewed(1000.0)

    lease.renewed(1010.0)

    assert lease.kill_at == 1039.0
