"""How far ahead tasks are claimed."""

import pytest

from background_task.supervisor.window import Window

from .tools import job


@pytest.mark.parametrize(
    ("seconds", "size"), [(0.0, 32), (0.02, 32), (0.1, 8), (0.25, 4), (0.3, 0), (9, 0)]
)
def test_it_is_as_wide_as_the_tasks_are_short(seconds, size):
    window = Window(4, 8)
    for _ in range(20):
        window.took(seconds)

    assert window.size == size


def test_it_is_shut_until_some_tasks_are_known():
    window = Window(4, 8)
    for _ in range(3):
        window.took(0.01)

    assert window.size == 0


def test_it_goes_by_the_last_tasks_and_can_forget_them():
    window = Window(4, 8)
    for seconds in [0.01] * 50 + [2.0] * 20:
        window.took(seconds)
    assert window.size == 0

    for _ in range(40):
        window.took(0.01)
    assert window.size == 32

    window.reset()
    assert window.size == 0


def test_it_can_be_shut_for_good():
    window = Window(4, 0)
    for _ in range(20):
        window.took(0.01)

    assert window.size == 0


def test_short_tasks_are_claimed_ahead(start):
    run = start(*[job("succeed")] * 60, workers=2, until_empty=True)
    assert run.finish(timeout=60) == 0, run.log

    assert sorted(entry["id"] for entry in run.ends()) == list(range(1, 61))
    assert most_held(run) > 2


def test_what_waits_behind_long_tasks_is_given_back(start):
    short, long = [job("succeed")] * 12, [job("sleep", 3)] * 2
    run = start(*short, *long, *short, workers=2, until_empty=True)
    assert run.finish(timeout=60) == 0, run.log

    assert sorted(entry["id"] for entry in run.ends()) == list(range(1, 27))
    ahead = [entry for entry in run.entries("recorded") if entry.get("ahead")]
    assert ahead
    assert {entry["says"] for entry in ahead} == {
        "Released: claimed ahead, and no slot was free"
    }


def test_what_was_given_back_is_not_claimed_again_while_no_slot_is_free(
    start, pid, gate
):
    short, long = [job("succeed")] * 12, [job("wait", pid, gate)] * 2
    run = start(*short, *long, job("succeed"), workers=2, until_empty=True)
    late = 15
    run.wait_until(lambda: run.entries("recorded", id=late))
    claimed = len(run.entries("claimed"))
    renewed = len(run.entries("renewed"))
    run.wait_until(lambda: len(run.entries("renewed")) >= renewed + 2)
    again = len(run.entries("claimed"))
    gate.touch()

    assert run.finish(timeout=60) == 0, run.log
    assert run.entries("recorded", id=late)[0]["ahead"]
    assert again == claimed
    assert sorted(entry["id"] for entry in run.ends()) == list(range(1, 16))


def most_held(run):
    """Return how many claims were open at the same time."""
    most = held = 0
    for entry in run.all_entries():
        held += {"claimed": 1, "recorded": -1}.get(entry["event"], 0)
        most = max(most, held)
    return most
