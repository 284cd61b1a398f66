"""What is told of what runs, and to whom."""

from background_task.supervisor.live import Live
from background_task.supervisor.tries import Tries


def test_a_new_bookkeeper_is_told_nothing_that_it_has_not_asked_for():
    live = Live()
    live.ask(output=["a claim"], stack=["a claim"])
    list(live.step(Tries(), moved=False, draining=False))
    live.ask(output=["a claim"], stack=["a claim"])

    live.told_nobody()

    assert live.next_moment() == []
    told = live.step(Tries(), moved=False, draining=True)
    kinds = [message["kind"] for message in told]
    assert "answer" not in kinds
