"""Four hosts on one PostgreSQL share the work; one of them is cut off in the middle."""

import math
from collections import Counter

import pytest
from django.db import connection

from background_task.models import Attempt, Runner, Task
from tests.app import chaos
from tests.integration.tools import wait_until

from . import world
from .checker import Strike, violations
from .hosts import may_have_hosts
from .stage import stage

HOSTS, TASKS, LEASE = 4, 200, 9.0
OPTIONS = "--workers", 2, "--sleep", 1
SECONDS = 0.1  # that a task takes


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="this is about PostgreSQL alone"
)
@pytest.mark.skipif(
    not may_have_hosts(), reason="NOT TESTED: a host of its own needs a pid namespace"
)
@pytest.mark.parametrize("moment", ["between two statements", "in a transaction"])
def test_four_hosts_share_the_tasks_and_the_rest_rescue_what_one_has_held(moment):
    folder = world.a_folder()
    try:
        with stage("postgresql", folder, HOSTS, OPTIONS, LEASE, apart=True) as found:
            _, _, hosts = found
            enqueued = _enqueue_when_all_are_at_work(folder, hosts)
            cut_off, strike = _cut_off_one_in_the_middle(folder, hosts, moment)
            wait_until(lambda: not Task.objects.exists(), 120, "the end of all tasks")
            cut_off.proxy.calm()
            hosts.stop()
            strikes = [strike]
            evidence = world.evidence(folder, hosts, enqueued=enqueued, strikes=strikes)
    finally:
        world.remove(folder)

    by_host, lost = _shares(evidence)
    print(f"tasks by host: {by_host}; rescued from {cut_off.number}: {len(lost)}")
    assert violations(evidence) == []
    assert not any(one.failed for one in evidence.completed)
    assert sum(by_host.values()) == len(evidence.completed) == TASKS
    assert set(by_host) == {host.number for host in hosts}
    # What was lost was held by the one host; nothing else was begun a second time.
    assert set(lost.values()) == {cut_off.number}
    begun = Counter(line.task for line in evidence.journal if line.event == "begin")
    assert {task for task, times in begun.items() if times > 1} <= set(lost)


def _enqueue_when_all_are_at_work(folder, hosts):
    """Return the labels by task."""
    names = {host.name for host in hosts}

    def all_at_work():
        return set(Runner.objects.values_list("place", "pid")) == names

    wait_until(all_at_work, 120)
    journal, labels = str(folder / "journal"), [f"steady-{n}" for n in range(TASKS)]
    return {chaos.steady(journal, label, SECONDS).pk: label for label in labels}


def _cut_off_one_in_the_middle(folder, hosts, moment):
    """Blackhole a host that runs tasks, when each has ended some; return both."""

    def all_have_ended_some():
        rows = Attempt.objects.filter(outcome=Attempt.Outcome.SUCCEEDED)
        runners = set(rows.values_list("runner_id", flat=True))
        return len(runners) == HOSTS and rows.count() > TASKS / 4

    wait_until(all_have_ended_some, 120)
    chosen = next(iter(hosts))
    place, pid = chosen.name
    runner = Runner.objects.get(place=place, pid=pid).pk

    def runs_some():
        lines = world.journal(folder / "journal")
        begun = {line.task for line in lines if line.event == "begin"}
        return Task.objects.filter(locked_by=runner, pk__in=begun).exists()

    wait_until(runs_some)
    strike = Strike("blackhole", chosen.number, world.now(), math.inf)
    if moment == "in a transaction":
        chosen.proxy.blackholes_at_commit = True
        wait_until(lambda: chosen.proxy.blackholes)
    else:
        chosen.proxy.blackholes = True
    return chosen, strike


def _shares(evidence):
    """Return how many tasks each host has ended, and which host lost which task."""
    by_host, lost = Counter(), {}
    for one in evidence.attempts:
        host = evidence.runners_seen[one.runner].host
        if one.outcome == Attempt.Outcome.SUCCEEDED:
            by_host[host] += 1
        elif one.outcome == Attempt.Outcome.LOST:
            lost[one.task] = host
    return by_host, lost
