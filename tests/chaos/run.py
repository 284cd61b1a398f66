"""One run: tasks, supervisors, faults; then a verdict."""

import pickle
import random
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

from django.db import Error, connections
from django.utils import timezone

from background_task.models import Runner, Task

from . import nemesis, world
from .checker import Chain, explanations, violations
from .stage import stage

LEASE = 3.0
_EVERY = 2  # seconds between two links of a chain of repeats
_SETTLE = 120.0  # seconds in which something ends, when the faults are over


@dataclass
class Plan:
    """What is asked of a run."""

    database: str
    seed: int
    seconds: float  # during which there are faults
    tasks: int
    supervisors: int = 2
    workers: int = 8
    pace: float = 1.0  # seconds between two faults
    chains: int = 3
    apart: bool = False  # each supervisor on a host of its own


@dataclass
class Verdict:
    """What became of it."""

    plan: Plan
    faults: Counter = field(default_factory=Counter)
    broken: list = field(default_factory=list)
    restarts: list = field(default_factory=list)  # seconds from a loss to the next try
    outcomes: Counter = field(default_factory=Counter)
    unbegun: list = field(default_factory=list)  # claims, each explained
    links: int = 0
    ended: int = 0
    took: float = 0.0
    folder: str = ""

    def __str__(self):
        plan = self.plan
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        ends = ", ".join(f"{kind} {n}" for kind, n in sorted(self.outcomes.items()))
        times = "none"
        if len(self.restarts) > 1:
            cuts = statistics.quantiles(self.restarts, n=20, method="inclusive")
            times = (
                f"p50 {statistics.median(self.restarts):.2f} s, p95 {cuts[-1]:.2f} s, "
                f"max {max(self.restarts):.2f} s ({len(self.restarts)} restarts)"
            )
        apart = " on hosts of their own" if plan.apart else ""
        reasons = Counter(reason for _, reason in self.unbegun)
        unbegun = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        return (
            f"{plan.database}, seed {plan.seed}: {plan.tasks} tasks and {plan.chains} "
            f"chains ({self.links} links), {plan.supervisors} supervisors{apart}, "
            f"{self.took:.0f} s\n"
            f"faults: {sum(self.faults.values())} ({kinds})\n"
            f"tries: {ends}\n"
            f"claims that never began: {unbegun or 'none'}\n"
            f"from the last sign of life to the next try: {times}\n"
            f"{'KEPT every promise' if not self.broken else 'BROKEN:'}\n"
            + "".join(f"  {one}\n" for one in _some_of_each(self.broken))
        )


def _some_of_each(broken):
    """Return ten broken promises of each kind, and how many more there are."""
    by_kind = {}
    for one in broken:
        by_kind.setdefault(one.partition(":")[0], []).append(one)
    for kind, ones in by_kind.items():
        yield from ones[:10]
        if len(ones) > 10:
            yield f"{kind}: and {len(ones) - 10} more"


def carry_out(plan):
    """Run it; return the verdict. The folder is kept if a promise was broken."""
    folder = world.a_folder()
    verdict = Verdict(plan, folder=str(folder))
    began = time.monotonic()
    options = "--workers", plan.workers, "--sleep", 1
    with stage(
        plan.database, folder, plan.supervisors, options, LEASE, apart=plan.apart
    ) as (settings, breakable, hosts):
        story = Story(plan, folder, settings, hosts, breakable, verdict)
        story.tell()
        story.judge()
    verdict.took = time.monotonic() - began
    if not verdict.broken:
        world.remove(folder)
    return verdict


class Story:
    """Enqueue, break, mend, wait, gather."""

    def __init__(self, plan, folder, settings, hosts, breakable, verdict):
        self._settings = settings
        self.plan, self.folder, self.verdict = plan, folder, verdict
        self.hosts = hosts
        self.nemesis = nemesis.Nemesis(hosts, breakable, settings)
        self.enqueued, self.chains = {}, {}

    def tell(self):
        """Have it all happen; return when everything has ended, or time is over."""
        self._wait_for_runners()
        driver = threading.Thread(target=self._enqueue_in_thread, daemon=True)
        driver.start()
        began, plan = time.monotonic(), self.plan
        for fault in nemesis.schedule(
            plan.seed, plan.seconds, self.nemesis.kinds, LEASE, plan.pace
        ):
            while (left := began + fault.at - time.monotonic()) > 0:
                self._look_after()
                time.sleep(min(left, 0.1))
            if self.nemesis.do(fault):
                self.verdict.faults[fault.kind] += 1
        while driver.is_alive():
            self._look_after()
            driver.join(0.1)
        self._settle()

    def _wait_for_runners(self):
        """Have something to break, however slowly it comes."""
        give_up_at = time.monotonic() + _SETTLE
        while Runner.objects.count() < self.plan.supervisors:
            if time.monotonic() > give_up_at:
                raise AssertionError("The supervisors did not come up")
            time.sleep(0.1)

    def _look_after(self):
        self.nemesis.undo_what_is_due()
        self.hosts.revive()

    def _enqueue_in_thread(self):
        with world.default_database(self._settings):  # each thread has its own
            self._enqueue_all()

    def _enqueue_all(self):
        """Enqueue at an even pace, so that there is work while things break."""
        from tests.app import chaos

        journal = str(self.folder / "journal")
        dice = random.Random(self.plan.seed + 1)
        for number in range(self.plan.chains):
            label, seconds = f"chain-{number}", self.plan.seconds
            until = timezone.now() + timedelta(seconds=seconds)
            most = 1 + round(seconds / _EVERY)
            self.chains[label] = Chain(most, _EVERY, world.now() + seconds)
            self._insist(
                lambda label=label, until=until: chaos.link(
                    journal, label, 0.1, repeat=_EVERY, repeat_until=until
                )
            )
        began, total = time.monotonic(), self.plan.tasks
        batch = max(1, total // 200)
        for start in range(0, total, batch):
            for number in range(start, min(start + batch, total)):
                kind = "failing" if number % 20 == 0 else "steady"
                label, seconds = f"{kind}-{number}", round(dice.uniform(0.05, 0.5), 3)
                function = getattr(chaos, kind)
                task = self._insist(
                    lambda f=function, la=label, s=seconds: f(journal, la, s)
                )
                self.enqueued[task.pk] = label
            due = began + self.plan.seconds * (start + batch) / total
            time.sleep(max(0.0, due - time.monotonic()))

    def _insist(self, enqueue):
        """Enqueue although the database is away: as a web process would, again."""
        while True:
            try:
                return enqueue()
            except Error:
                connections["default"].close()
                time.sleep(0.2)

    # Afterwards

    def _settle(self):
        """Mend everything, and wait until nothing is left to do."""
        patching = threading.Thread(target=self.nemesis.calm)
        patching.start()  # a rolling restart needs somebody who revives
        left, give_up_at = -1, time.monotonic() + _SETTLE
        while time.monotonic() < give_up_at and (left or patching.is_alive()):
            self.hosts.revive()
            former = left
            try:
                left = Task.objects.count()
            except Error:
                connections["default"].close()
            if left != former:
                give_up_at = time.monotonic() + _SETTLE
            time.sleep(0.2)
        patching.join()
        self.hosts.stop()
        time.sleep(0.5)

    def judge(self):
        """Gather the evidence, and judge it."""
        found = world.evidence(
            self.folder,
            self.hosts,
            enqueued=self.enqueued,
            most={"steady": 50, "failing": 3},
            chains=self.chains,
            strikes=self.nemesis.strikes,
        )
        verdict = self.verdict
        verdict.outcomes = Counter(one.outcome for one in found.attempts)
        verdict.ended = len(found.completed)
        verdict.links = sum(one.label in self.chains for one in found.completed)
        verdict.restarts = restarts(found.journal)
        verdict.unbegun = list(explanations(found))
        verdict.broken = violations(found)
        if verdict.broken:
            with (self.folder / "evidence.pickle").open("wb") as file:
                pickle.dump(found, file)


def restarts(journal):
    """Return how long after the last sign of life of a try the next one began.

    Of tries that wrote no end: they were killed.
    """
    tries = {}
    for line in journal:
        new = line.at, line.at, False
        first, last, ended = tries.get((line.task, line.claim), new)
        ended = ended or line.event == "end"
        tries[line.task, line.claim] = min(first, line.at), max(last, line.at), ended
    by_task = {}
    for (task, _), span in tries.items():
        by_task.setdefault(task, []).append(span)
    found = []
    for spans in by_task.values():
        spans.sort()
        for (_, last, ended), (begun, _, _) in pairwise(spans):
            if not ended:
                found.append(begun - last)
    return found
