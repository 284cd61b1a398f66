"""What people ask is heard, and what they see is written, whatever goes wrong."""

import json
import signal

import pytest

from background_task.supervisor import clock
from background_task.supervisor.channel import Channel, pair
from background_task.supervisor.orders import OrderDesk
from background_task.supervisor.queue import QueueBusy, QueueUnavailable, Runner

from .memory import MemoryQueue
from .tools import begun, job


def test_nothing_is_claimed_until_it_is_known_what_is_paused(start):
    run = start(job("succeed"), lease=6.0, queue_is_down=True)
    run.ask(busy="its row is in use")
    run.journal.with_suffix(".down").unlink()
    run.wait_until(lambda: len(run.entries("renewed")) >= 2)
    assert run.entries("claimed") == []

    run.ask()

    run.wait_until(lambda: run.endings(1) == ["Succeeded"])
    assert run.stop() == 0


def test_one_that_claims_no_more_can_still_be_asked_to_drain(start, pid):
    run = start(job("wait", pid), drain_timeout=0.1)
    begun(run, pid)
    run.send(signal.SIGTSTP)
    run.wait_for_log("SIGTSTP: ")

    run.ask(drain_by="ann")

    assert run.finish() == 0, run.log
    assert "Asked to drain by ann" in run.log
    assert run.endings(1) == ["Released"]


# At the desk, without a supervisor


@pytest.fixture
def queue(tmp_path):
    arguments = {"jobs": [job("succeed")], "journal": str(tmp_path / "journal")}
    return MemoryQueue({}, arguments, Runner("r", "host", "place", 1, 1))


@pytest.fixture
def desk(queue):
    ours, theirs = pair()
    with ours, theirs:
        yield OrderDesk(Channel(ours), queue)


def written(queue, event):
    lines = queue.journal.read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def test_they_are_read_each_second_though_nothing_else_is_to_be_done(desk):
    desk.read(())

    assert 0.5 < desk.next_moment() - clock.now() <= 1.0


class InUse(MemoryQueue):
    """What people ask for is locked by another; that is known after some seconds."""

    asked = 0

    def _fail(self, *args, **kwargs):
        self.asked += 1
        raise QueueBusy("its table is locked")

    orders = settle_orders = report = _fail


def test_what_is_in_use_is_let_be_for_a_while(tmp_path, caplog):
    """Each try may take seconds, for which nothing else is written or claimed."""
    arguments = {"jobs": [], "journal": str(tmp_path / "journal")}
    queue = InUse({}, arguments, Runner("r", "host", "place", 1, 1))
    ours, theirs = pair()
    with ours, theirs:
        desk = OrderDesk(Channel(ours), queue)
        desk.called = True  # since then
        desk._orders.pointless = True
        desk.heed({"kind": "state", "running": [], "draining": False})
        for _ in range(3):
            desk.read(())
            desk.settle(())
            desk.show()
        rest = desk.next_moment() - clock.now()

    assert queue.asked == 3
    assert rest > 1.0
    assert caplog.text.count("could not be read") == 1


def test_what_could_not_be_written_in_an_outage_is_written_after_it(queue, desk):
    (claimed,) = queue.claim({None: 1}, ())
    queue.down.touch()
    desk.heed({"kind": "state", "running": [1], "draining": False})
    for size in range(100):
        what = {"size": size}
        told = {"verb": "output", "claim": claimed.claim, "what": what}
        desk.heed({"kind": "answer", **told})
    for _ in range(2):
        with pytest.raises(QueueUnavailable):
            desk.show()

    queue.down.unlink()
    desk.show()
    desk.show()

    assert [entry["running"] for entry in written(queue, "state")] == [[1]]
    assert [entry["what"] for entry in written(queue, "answer")] == [{"size": 99}]


def test_what_is_refused_is_told_of_and_forgotten(queue, desk, caplog):
    queue.claim({None: 1}, ())
    told = {"verb": "output", "claim": "nobody's", "what": {}}
    desk.heed({"kind": "answer", **told})

    desk.show()
    desk.show()

    assert caplog.text.count("could not be written") == 1
