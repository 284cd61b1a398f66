"""How often are dead runners looked after, when that fails?"""

import pytest

from background_task.supervisor import clock
from background_task.supervisor.channel import Channel, pair
from background_task.supervisor.queue import QueueBusy, Runner
from background_task.supervisor.rounds import Rounds

from .memory import MemoryQueue


class InUse(MemoryQueue):
    """What dead runners held is in use by a session that a host has left behind."""

    error: Exception = QueueBusy("its row is locked")

    def rescue(self, runner=None):
        raise self.error


@pytest.fixture
def in_use(tmp_path):
    arguments = {"jobs": [], "journal": str(tmp_path / "journal")}
    return InUse({}, arguments, Runner("r", "host", "place", 1, 1))


@pytest.mark.parametrize(
    "error, longest", [(QueueBusy("locked"), 5.0), (ValueError("it is broken"), 60.0)]
)
def test_a_row_in_use_is_looked_at_again_soon(in_use, error, longest):
    """However often it was in use; what is broken is looked at less and less often."""
    in_use.error = error
    ours, theirs = pair()
    with ours, theirs:
        rounds = Rounds(Channel(ours), in_use, 600.0, lambda: None)
        for _ in range(12):
            rounds.go()
            rest = rounds.next_moment() - clock.now()

    assert longest / 2 < rest <= longest
