"""The checker finds each kind of broken promise, and none where none was broken."""

from dataclasses import replace

import pytest

from .checker import (
    Chain,
    Ended,
    Evidence,
    Line,
    Lock,
    Recorded,
    Seen,
    Strike,
    explanations,
    violations,
)


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
            line("begin", 5.0, "2@a", task=2),
            line("begin", 7.0, "3@a", task=3),
        ],
        locks=[
            Lock(1, None, "r", 0, 0, "1@0", 0.1),
            Lock(1, "r", None, 0, 0, "1@0", 0.2),
            Lock(1, None, "r", 0, 0, "1@a", 0.9),
            Lock(1, "r", None, 0, 1, "1@a", 2.0),
            Lock(1, None, "s", 1, 1, "1@b", 2.9),
        ],
        completed=[
            Ended(1, "steady-1", 2, False, 3.6),
            Ended(2, "chain-1", 1, False, 5.5),
            Ended(3, "chain-1", 1, False, 7.5),
        ],
        attempts=[Recorded(1, 1, "Crashed", "r"), Recorded(1, 2, "Succeeded", "s")],
        runners_seen={"r": Seen(0, 0.0), "s": Seen(1, 0.0)},
        most={"steady": 50},
        chains={"chain-1": Chain(2, 2.0, 9.0)},
    )


def test_what_kept_its_promises_has_none_broken():
    assert violations(good()) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"completed": good().completed[1:]}, "lost: task 1"),
        ({"completed": good().completed[1:], "left": [1]}, "still in the table"),
        (
            {"completed": [Ended(1, "steady-1", 2, True, 3.6), *good().completed[1:]]},
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
                "locks": [*good().locks, Lock(1, None, "r", 1, 1, "1@c", 9.0)],
                "attempts": [*good().attempts, Recorded(1, 3, "Lost", "r")],
            },
            "never began: 1@c",
        ),
        ({"completed": good().completed[:1]}, "chain: chain-1 never ran"),
        ({"completed": good().completed[:2]}, "chain-1 ended after 1 links: a gap"),
        (
            {"completed": [*good().completed, Ended(4, "chain-1", 1, False, 9.0)]},
            "chain: chain-1 has 3 links",
        ),
        (
            {"journal": [*good().journal, line("begin", 5.2, "3@b", task=3)]},
            "task 3 began before task 2 had ended: a fork",
        ),
        ({"locked": [9]}, "task 9 is locked"),
        ({"runners": ["abc"]}, "the row of runner abc"),
        ({"processes": ["sleep 600"]}, "the process sleep 600"),
    ],
)
def test_each_broken_promise_is_found(changes, found):
    broken = violations(replace(good(), **changes))

    assert any(found in one for one in broken), broken


def lost_on_r():
    evidence = good()
    evidence.locks.append(Lock(1, None, "r", 1, 1, "1@c", 9.0))
    evidence.attempts.append(Recorded(1, 3, "Lost", "r"))
    return evidence


def test_a_claim_that_never_began_is_explained_by_what_befell_its_host():
    evidence = lost_on_r()
    evidence.strikes.append(Strike("kill supervisor", 0, 9.1, 9.1))

    assert violations(evidence) == []
    assert list(explanations(evidence)) == [
        ("1@0", "given back"),
        ("1@c", "Lost by kill supervisor"),
    ]


@pytest.mark.parametrize(
    "strike",
    [
        Strike("kill supervisor", 1, 9.1, 9.1),  # another host
        Strike("blackhole", 0, 4.0, 5.0),  # long before it was claimed
        Strike("kill supervisor", 0, -2.0, -2.0),  # that of an earlier runner
        Strike("kill task", 0, 9.1, 9.1),  # that makes it crash, and not be lost
    ],
)
def test_a_claim_that_never_began_is_not_explained_by_anything_else(strike):
    evidence = lost_on_r()
    evidence.strikes.append(strike)

    assert [one for one in violations(evidence) if "never began: 1@c" in one]
