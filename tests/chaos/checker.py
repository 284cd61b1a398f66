"""Did what happened keep the promises? Judged by the journal and the tables alone.

The journal is what tasks have written of themselves, outside of the database. The
ledger is what the database has seen of the rows' locks: a trigger has written it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

# What may have a claim lost, or its process crash, before anything of it ran.
_OUTAGES = {"blackhole", "delay", "refuse", "cut", "cut in commit"}
_OUTAGES |= {"stop fast", "stop immediate", "disk full"}
_LOSES = _OUTAGES | {"kill supervisor", "freeze supervisor"}
_LOSES |= {"kill bookkeeper", "freeze bookkeeper"}
_CRASHES = {"kill task", "kill launcher", "freeze launcher"}
# Seconds, the lease: whose own has run out is swept a while after a fault, and
# a bookkeeper that was killed may be replaced too late for it.
_AFTERMATH = 3.0
_CLOCKS = 0.02  # seconds by which the clocks of a row and of the journal may differ


@dataclass(frozen=True)
class Line:
    """One line of the journal."""

    event: str  # begin, alive, end
    label: str
    task: int
    attempt: int
    claim: str
    pid: int
    at: float  # seconds since boot


@dataclass(frozen=True)
class Lock:
    """One change of a row's lock. `new` is None: it was given back, or failed."""

    task: int
    old: str | None
    new: str | None
    old_attempts: int
    new_attempts: int
    claim: str  # of the lock that began, or ended
    at: float  # seconds since boot


@dataclass(frozen=True)
class Ended:
    """A completed row."""

    task: int
    label: str
    attempts: int
    failed: bool
    at: float  # seconds since boot


@dataclass(frozen=True)
class Recorded:
    """A recorded try."""

    task: int
    number: int
    outcome: str
    runner: str


@dataclass(frozen=True)
class Strike:
    """What the nemesis has done, to a host by its number, or to all (None)."""

    kind: str
    host: int | None
    since: float  # seconds since boot
    until: float


@dataclass(frozen=True)
class Seen:
    """Where a runner was, and since when it was registered."""

    host: int
    since: float  # seconds since boot


@dataclass(frozen=True)
class Chain:
    """What is known of a chain of repeats beforehand."""

    most: int  # links
    every: float  # seconds
    until: float  # seconds since boot


@dataclass
class Evidence:
    """All that a run has left behind."""

    enqueued: dict[int, str]  # labels by task, chains not among them
    journal: list[Line] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    completed: list[Ended] = field(default_factory=list)
    attempts: list[Recorded] = field(default_factory=list)
    left: list[int] = field(default_factory=list)  # tasks that are still in the table
    locked: list[int] = field(default_factory=list)
    runners: list[str] = field(default_factory=list)  # rows
    processes: list[str] = field(default_factory=list)
    runners_seen: dict[str, Seen] = field(default_factory=dict)
    strikes: list[Strike] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)  # attempts, by kind of label
    chains: dict[str, Chain] = field(default_factory=dict)  # by label


def violations(evidence: Evidence) -> list[str]:
    """Return everything that broke a promise, in words."""
    return [
        *_lost(evidence),
        *_overlapping(evidence.journal),
        *_in_the_books_twice(evidence),
        *_unaccounted_claims(evidence),
        *_claims_that_never_began(evidence),
        *_broken_chains(evidence),
        *_left_behind(evidence),
    ]


def _lost(evidence: Evidence) -> Iterable[str]:
    """Every enqueued task is completed, or failed after its allowed attempts."""
    ended = {one.task: one for one in evidence.completed}
    finished = {line.task for line in evidence.journal if line.event == "end"}
    for task, label in evidence.enqueued.items():
        if task not in ended:
            where = "is still in the table" if task in evidence.left else "is gone"
            yield f"lost: task {task} ({label}) {where}, and not completed"
            continue
        one = ended[task]
        most = evidence.most.get(label.partition("-")[0])
        if one.failed and most is not None and one.attempts < most:
            yield f"given up: task {task} ({label}) after {one.attempts} of {most}"
        if not one.failed and task not in finished:
            yield f"never ran: task {task} ({label}) is completed, and wrote no end"


def _overlapping(journal: list[Line]) -> Iterable[str]:
    """No two tries of a task run at the same time."""
    tries: dict[int, dict[str, list[float]]] = defaultdict(dict)
    for line in journal:
        tries[line.task].setdefault(line.claim, []).append(line.at)
    for task, by_claim in tries.items():
        spans = sorted((min(at), max(at), claim) for claim, at in by_claim.items())
        for (_, end, one), (begin, _, other) in pairwise(spans):
            if begin <= end:
                yield (
                    f"overlap: task {task}: {other} began {end - begin:.3f} s before "
                    f"the last sign of life of {one}"
                )
    begun = Counter(line.claim for line in journal if line.event == "begin")
    for claim, times in begun.items():
        if times > 1:
            yield f"overlap: the try {claim} began {times} times"


def _in_the_books_twice(evidence: Evidence) -> Iterable[str]:
    for task, times in Counter(one.task for one in evidence.completed).items():
        if times > 1:
            yield f"twice: task {task} is in the books {times} times"
    tries = Counter((one.task, one.number) for one in evidence.attempts)
    for (task, number), times in tries.items():
        if times > 1:
            yield f"twice: try {number} of task {task} is recorded {times} times"


def _unaccounted_claims(evidence: Evidence) -> Iterable[str]:
    """Claims = attempts + released, for each task."""
    claims: Counter[int] = Counter()
    released: Counter[int] = Counter()
    for lock in evidence.locks:
        claims[lock.task] += lock.new is not None
        released[lock.task] += lock.new is None and (
            lock.old_attempts == lock.new_attempts
        )
    attempts = Counter(one.task for one in evidence.attempts)
    for task in claims | attempts:
        if claims[task] != attempts[task] + released[task]:
            yield (
                f"unaccounted: task {task} was claimed {claims[task]} times, has "
                f"{attempts[task]} attempts and was given back {released[task]} times"
            )


def _claims_that_never_began(evidence: Evidence) -> Iterable[str]:
    """Each is a release, or a loss by what the nemesis has done to its host."""
    for claim, reason in explanations(evidence):
        if not reason:
            yield f"never began: {claim}; and nothing had befallen its runner"


def explanations(evidence: Evidence) -> Iterable[tuple[str, str]]:
    """Yield each claim that never began, and why: nothing if nobody can tell."""
    begun = {line.claim for line in evidence.journal}
    begun_tries = {(line.task, line.attempt) for line in evidence.journal}
    unbegun_tries: dict[tuple[int, str], list[Recorded]] = defaultdict(list)
    for one in evidence.attempts:
        if (one.task, one.number) not in begun_tries:
            unbegun_tries[one.task, one.runner].append(one)
    ends = {lock.claim: lock for lock in evidence.locks if lock.new is None}
    for lock in evidence.locks:
        if lock.new is None or lock.claim in begun:
            continue
        end = ends.get(lock.claim)
        if end is not None and end.old_attempts == end.new_attempts:
            yield lock.claim, "given back"
            continue
        tries = unbegun_tries[lock.task, lock.new]
        until = math.inf if end is None else end.at
        yield lock.claim, _why(evidence, lock, until, tries.pop(0) if tries else None)


def _why(evidence: Evidence, lock: Lock, until: float, one: Recorded | None) -> str:
    """Name what befell a claim that was lost, or whose process crashed, unbegun."""
    kinds = {"Lost": _LOSES, "Crashed": _CRASHES}.get(one.outcome, ()) if one else ()
    runner = evidence.runners_seen.get(lock.new or "")
    for strike in evidence.strikes:
        if runner is None or strike.kind not in kinds:
            continue
        befell = strike.host in (None, runner.host) and runner.since <= strike.until
        # The bookkeeper of one that is killed may claim once more.
        is_final = strike.kind == "kill supervisor"
        over = math.inf if is_final else strike.until + _AFTERMATH
        if befell and strike.since <= until and over >= lock.at:
            return f"{one.outcome if one else ''} by {strike.kind}"
    return ""


def _broken_chains(evidence: Evidence) -> Iterable[str]:
    """A chain of repeats has neither gap nor fork: one link after the other.

    The next link is due after the last has ended, and no later than a period after.
    """
    links: dict[str, list[Ended]] = defaultdict(list)
    for one in evidence.completed:
        if one.label in evidence.chains:
            links[one.label].append(one)
    begun: dict[int, float] = {}
    for line in evidence.journal:
        begun[line.task] = min(line.at, begun.get(line.task, line.at))
    for label, chain in evidence.chains.items():
        ended = sorted(links[label], key=lambda one: one.at)
        if len(ended) > chain.most:
            yield f"chain: {label} has {len(ended)} links, of {chain.most}: a fork"
        if not ended:
            yield f"chain: {label} never ran"
        elif ended[-1].at + chain.every < chain.until:
            yield f"chain: {label} ended after {len(ended)} links: a gap"
        for one, other in pairwise(ended):
            if begun.get(other.task, math.inf) < one.at - _CLOCKS:
                yield (
                    f"chain: {label}: task {other.task} began before task {one.task} "
                    "had ended: a fork"
                )


def _left_behind(evidence: Evidence) -> Iterable[str]:
    for task in evidence.locked:
        yield f"left behind: task {task} is locked"
    for runner in evidence.runners:
        yield f"left behind: the row of runner {runner}"
    for process in evidence.processes:
        yield f"left behind: the process {process}"
