"""Of two hosts one is cut off; `python -m tests.chaos.handover` does it more often."""

import pytest
from django.db import connection

from .handover import cut_off, scene
from .hosts import may_have_hosts
from .world import now

NAMES = {"postgresql": "postgresql", "mysql": "mariadb"}


pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(
        not may_have_hosts(),
        reason="NOT TESTED: a host of its own needs a pid namespace",
    ),
    pytest.mark.skipif(connection.vendor not in NAMES, reason="hosts share no file"),
]


def test_what_is_cut_off_has_killed_its_task_before_another_host_starts_it():
    with scene(NAMES[connection.vendor], apart=True) as play:
        found = [cut_off(play, seed) for seed in (1, 2, 3)]

    assert all(one.margin > 0 for one in found), list(map(str, found))
    assert {one.deaf for one in found} == {True, False}


def test_a_host_that_is_cut_off_in_the_middle_of_a_transaction_keeps_no_locks():
    with scene(NAMES[connection.vendor], apart=True) as play:
        play.ready()
        label = play.task()
        first = play.begun(label)
        host, _ = play.host_of(first)
        host.proxy.blackholes_at_commit = True
        while not host.proxy.blackholes:  # until it claims, or records an end
            other = play.task()
            play.begun(other)
            play.end(other)
        moment = now()
        found = play.handover(label, first, "in a transaction", False, moment)

    assert found.margin > 0, str(found)
