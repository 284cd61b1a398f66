"""How long does a bookkeeper wait between two tries, in an outage?"""

from itertools import islice

import pytest

from background_task.supervisor.desk import pauses


def first_pauses(lease):
    return list(islice(pauses(lease), 12))


@pytest.mark.parametrize("lease", [1, 3, 30, 300])
def test_they_grow_to_a_bound(lease):
    longest = min(5.0, lease / 12)

    first, *_ = times = first_pauses(lease)

    assert first <= 0.1 * 1.2
    assert all(0.8 * longest <= pause <= 1.2 * longest for pause in times[-5:])
    assert times[-1] > first or longest < 0.15
    assert sum(times[:3]) < 1


def test_no_two_runners_keep_step():
    assert first_pauses(30) != first_pauses(30)
