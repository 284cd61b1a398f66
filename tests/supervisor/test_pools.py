"""Whose the slots are, and what may be claimed for them."""

import os
import signal
from types import SimpleNamespace

from background_task.supervisor.job import Job
from background_task.supervisor.pools import Pools

from .tools import job


def of(queue):
    return Job(id=1, name="n", target="m:f", args=None, claim="1@1", queue=queue)


def all_of(*queues):
    return [SimpleNamespace(job=of(queue)) for queue in queues]


def queues(tries):
    return [attempt.job.queue for attempt in tries]


def test_without_queues_of_their_own_all_share():
    pools = Pools(3, {}, 8)

    assert list(pools.lacking([of("a")])) == [(None, 2)]
    assert list(pools.lacking([of("a")])) == []
    assert queues(pools.startable(all_of("b", "c", None), all_of("a"))) == ["b", "c"]


def test_a_queue_has_its_own_and_the_others_share_the_rest():
    pools = Pools(5, {"mail": 2}, 8)

    assert dict(pools.lacking([])) == {"mail": 2, None: 3}
    pools.took_back_credit()
    assert dict(pools.lacking([of("mail"), of("mail"), of("a")])) == {None: 2}

    waiting = all_of("mail", "mail", "a", "a", "b", "a")
    startable = pools.startable(waiting, all_of("mail"))
    assert queues(startable) == ["mail", "a", "a", "b"]
    startable = pools.startable(waiting, all_of("a", "a", "b"))
    assert queues(startable) == ["mail", "mail"]


def test_a_rest_of_none_is_no_pool():
    pools = Pools(8, {"mail": 2, "default": 6}, 8)

    assert pools.names == ["mail", "default"]


def test_only_what_is_shared_is_claimed_ahead_by_its_own_tasks():
    pools = Pools(3, {"mail": 1}, 8)
    for queue, seconds in (("mail", 0.01), ("a", 9.0)) * 20:
        pools.of(of(queue)).window.took(seconds)
    assert dict(pools.lacking([])) == {"mail": 1, None: 2}

    pools.took_back_credit()
    for queue, seconds in (("mail", 9.0), ("a", 0.01)) * 40:
        pools.of(of(queue)).window.took(seconds)
    assert dict(pools.lacking([])) == {"mail": 1, None: 2 + 2 * 8}

    assert dict(pools.reset_windows([of("a"), of("a"), of("b")])) == {None: 18}
    assert dict(pools.lacking([of("a"), of("a"), of("b")])) == {}
    assert dict(pools.lacking([of("a")])) == {None: 1}

    pools.took_back_credit()
    pools.shut_windows()
    assert dict(pools.lacking([])) == {"mail": 1, None: 2}


def test_a_full_pool_keeps_no_other_waiting_and_nothing_is_forgotten(start, pid, gate):
    long = [{**job("wait", pid, gate), "queue": "mail"}] * 3
    short = [job("succeed")] * 40
    run = start(
        *long,
        *short,
        workers=3,
        pools={"mail": 1},
        queue={"pools": ["mail"]},
        until_empty=True,
    )
    run.wait_until(lambda: len(run.ends()) == len(short))
    claimed = {entry["id"] for entry in run.entries("claimed")}  # given back or not
    assert len(claimed & {1, 2, 3}) == 1

    gate.touch()

    assert run.finish(timeout=60) == 0, run.log
    assert len(run.ends()) == len(long) + len(short)
    assert most_held(run, {1, 2, 3}) == 1


def test_a_new_bookkeeper_claims_no_more_than_there_are_slots_for(start, pid, gate):
    long = [{**job("wait", pid, gate), "queue": "mail"}] * 6
    run = start(*long, workers=2, pools={"mail": 2}, queue={"pools": ["mail"]})
    run.wait_until(lambda: len(run.entries("claimed")) == 2)
    for _ in range(3):
        bookkeeper = run.wait_for_pid("bookkeeper")
        opened = len(run.entries("open"))
        os.kill(bookkeeper, signal.SIGKILL)
        run.wait_until(lambda before=opened: len(run.entries("open")) > before)
    assert most_held(run, set(range(1, 7))) == 2  # one may have been given back

    gate.touch()
    run.wait_until(
        lambda: sum(end["outcome"] == "Succeeded" for end in run.ends()) == len(long)
    )
    run.stop()

    assert most_held(run, set(range(1, 7))) == 2


def most_held(run, ids):
    """Return how many claims of these were open at the same time."""
    most = held = 0
    for entry in run.all_entries():
        if entry.get("id") in ids:
            held += {"claimed": 1, "recorded": -1}.get(entry["event"], 0)
        most = max(most, held)
    return most
