"""The checker finds each kind of broken promise, and none where none was broken."""

from dataclasses import replace

import pytest

from .checker import Ended, Evidence, Line, Lock, Recorded, violations


def line(event, at, claim="1@r@1", task=1, attempt=1):
    return Line(event, f"steady-{task}", task, attempt, claim, 100, at)


def good():
    """A task that was given back once, failed once by a kill, and then succeeded."""
    return Evidence(
        enqueued={1: "steady-1"},
        journal=[
            line("begin", 1.0, "1@a"),
            line("alive", 1.5, "1@a"),
            line("begin", 3.0, "1@b", attempt=2),
            line("end", 3.5, "1@b", attempt=2),
        ],
        locks=[
            Lock(1, None, "r", 0, 0, "1@0"),
            Lock(1, "r", None, 0, 0, "1@0"),
            Lock(1, None, "r", 0, 0, "1@a"),
            Lock(1, "r", None, 0, 1, "1@a"),
            Lock(1, None, "s", 1, 1, "1@b"),
        ],
        completed=[Ended(1, "steady-1", 2, False), Ended(2, "chain-1", 1, False)],
        attempts=[Recorded(1, 1, "Crashed", "r"), Recorded(1, 2, "Succeeded", "s")],
        killed={"dead"},
        most={"steady": 50},
        chains={"chain-1": 1},
    )


def test_what_kept_its_promises_has_none_broken():
    assert violations(good()) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"completed": good().completed[1:]}, "lost: task 1"),
        ({"completed": good().completed[1:], "left": [1]}, "still in the table"),
        (
            {"completed": [Ended(1, "steady-1", 2, True), good().completed[1]]},
            "given up: task 1 (steady-1) after 2 of 50",
        ),
        ({"journal": good().journal[:3]}, "never ran: task 1"),
        (
            {"journal": [*good().journal, line("alive", 3.2, "1@a")]},
            "overlap: task 1: 1@b began 0.200 s before",
        ),
        (
            {"journal": [*good().journal, line("begin", 3.4, "1@b")]},
            "the try 1@b began 2 times",
        ),
        ({"completed": [*good().completed, good().completed[0]]}, "twice: task 1"),
        ({"attempts": [*good().attempts, good().attempts[0]]}, "twice: try 1 of task"),
        ({"locks": good().locks[2:4]}, "unaccounted: task 1 was claimed 1 times"),
        (
            {
                "locks": [*good().locks, Lock(1, None, "r", 1, 1, "1@c")],
                "attempts": [*good().attempts, Recorded(1, 3, "Lost", "alive")],
            },
            "never began: 1@c",
        ),
        ({"completed": good().completed[:1]}, "chain: chain-1 never ran"),
        (
            {"completed": [*good().completed, Ended(3, "chain-1", 1, False)]},
            "chain: chain-1 has 2 links",
        ),
        ({"locked": [9]}, "task 9 is locked"),
        ({"runners": ["abc"]}, "the row of runner abc"),
        ({"processes": ["sleep 600"]}, "the process sleep 600"),
    ],
)
def test_each_broken_promise_is_found(changes, found):
    broken = violations(replace(good(), **changes))

    assert any(found in one for one in broken), broken


def test_a_claim_that_never_began_is_explained_by_a_killed_runner():
    evidence = good()
    evidence.locks.append(Lock(1, None, "dead", 1, 1, "1@c"))
    evidence.attempts.append(Recorded(1, 3, "Lost", "dead"))

    assert violations(evidence) == []
