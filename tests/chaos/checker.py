"""Did what happened keep the promises? Judged by the journal and the tables alone.

The journal is what tasks have written of themselves, outside of the database. The
ledger is what the database has seen of the rows' locks: a trigger has written it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise


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


@dataclass(frozen=True)
class Ended:
    """A completed row."""

    task: int
    label: str
    attempts: int
    failed: bool


@dataclass(frozen=True)
class Recorded:
    """A recorded try."""

    task: int
    number: int
    outcome: str
    runner: str


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
    killed: set[str] = field(default_factory=set)  # runners that the nemesis killed
    most: dict[str, int] = field(default_factory=dict)  # attempts, by kind of label
    chains: dict[str, int] = field(default_factory=dict)  # how many links there are


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
    """Each is a release, or a loss by what the nemesis has done."""
    begun = {line.claim for line in evidence.journal}
    begun_tries = {(line.task, line.attempt) for line in evidence.journal}
    given_back = {
        lock.claim
        for lock in evidence.locks
        if lock.new is None and lock.old_attempts == lock.new_attempts
    }
    unbegun: dict[int, list[Lock]] = defaultdict(list)
    for lock in evidence.locks:
        if lock.new is not None and lock.claim not in begun | given_back:
            unbegun[lock.task].append(lock)
    explained: dict[int, list[Recorded]] = defaultdict(list)
    for one in evidence.attempts:
        killed = one.outcome == "Lost" and one.runner in evidence.killed
        never = (one.task, one.number) not in begun_tries
        if never and (killed or one.outcome == "Crashed"):
            explained[one.task].append(one)
    for task, locks in unbegun.items():
        if len(locks) > len(explained[task]):
            names = ", ".join(lock.claim for lock in locks)
            yield f"never began: {names}; and nobody was killed for it"


def _broken_chains(evidence: Evidence) -> Iterable[str]:
    """A chain of repeats has neither gap nor fork: one link after the other."""
    links = Counter(
        one.label for one in evidence.completed if one.label in evidence.chains
    )
    for label, wanted in evidence.chains.items():
        if not links[label]:
            yield f"chain: {label} never ran"
        if links[label] > wanted:
            yield f"chain: {label} has {links[label]} links, of {wanted}: a fork"


def _left_behind(evidence: Evidence) -> Iterable[str]:
    for task in evidence.locked:
        yield f"left behind: task {task} is locked"
    for runner in evidence.runners:
        yield f"left behind: the row of runner {runner}"
    for process in evidence.processes:
        yield f"left behind: the process {process}"
