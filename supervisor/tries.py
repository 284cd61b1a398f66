"""What is held: claimed, and not yet known to be in the books?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import clock
from .child import Child, Progress
from .evidence import Ended
from .job import Job
from .outcome import Cancelled, Outcome, Released

_SHOWN = 20


@dataclass(slots=True)
class Try:
    """One claimed job on its way to the books."""

    job: Job
    claimed: float  # when it was heard of
    child: Child | None = None
    outcome: Outcome | None = None
    handed_in: bool = False
    let_go: bool = False


def _ended(outcome: Outcome, child: Child | None) -> Ended:
    if child is None:
        return Ended(outcome)
    return Ended(outcome, child.evidence, tuple(child.left_sessions()))


class Tries:
    """The tries that are held, by claim, in the order in which they were claimed."""

    def __init__(self) -> None:
        self._tries: dict[str, Try] = {}

    def __len__(self) -> int:
        return len(self._tries)

    def __str__(self) -> str:
        """At most twenty of them, by task, and how many more there are."""
        jobs = [str(attempt.job) for attempt in self._tries.values()]
        shown = ", ".join(jobs[:_SHOWN])
        more = len(jobs) - _SHOWN
        return shown if more <= 0 else f"{shown} and {more} more"

    @property
    def claims(self) -> list[str]:
        return list(self._tries)

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs of those that take up a slot, or wait for one."""
        return (a.job for a in self._tries.values() if not a.let_go)

    def let_go(self, claim: str) -> None:
        """Its end can't be written: it is held until that is settled, in no slot."""
        if claim in self._tries:
            self._tries[claim].let_go = True

    def take(self, job: Job) -> None:
        """This was claimed for us."""
        self._tries[job.claim] = Try(job, clock.now())

    def recorded(self, claims: Iterable[str]) -> list[Try]:
        """These are in the books, or others have written about them; return them."""
        return [self._tries.pop(claim) for claim in claims if claim in self._tries]

    def clear(self) -> None:
        """Nothing of this is ours to write any more."""
        self._tries.clear()

    def waiting(self) -> list[Try]:
        """Return what is claimed and not yet started."""
        return [a for a in self._tries.values() if not a.child and not a.outcome]

    def waiting_since(self) -> float | None:
        """Return since when the first of them has been waiting."""
        return min((attempt.claimed for attempt in self.waiting()), default=None)

    def give_back(self, claimed_before: float) -> bool:
        """Release what has waited too long while others run; return whether any has."""
        late = [a for a in self.waiting() if a.claimed < claimed_before]
        if not late or not self.running():
            return False
        for attempt in late:
            attempt.outcome = Released("claimed ahead, and no slot was free", True)
        return True

    def sum_up(self, *, draining: bool) -> Iterator[Child]:
        """Give every try that is over its outcome; yield the children of those."""
        for attempt in self._tries.values():
            if attempt.outcome is not None:
                continue
            if attempt.child is not None and attempt.child.never_took_it:
                attempt.child = None  # another process will
            if attempt.child is None and draining:
                attempt.outcome = Released("the runner was stopped before it began")
            elif attempt.child is not None and attempt.child.over:
                attempt.outcome = attempt.child.outcome(draining=draining)
                yield attempt.child

    def running(self) -> list[Child]:
        """Return the processes of those that are not over."""
        children = (a.child for a in self._tries.values() if a.outcome is None)
        return [child for child in children if child is not None]

    def child(self, claim: str) -> Child | None:
        """Return the process of a try that is not over, if it has one."""
        attempt = self._tries.get(claim)
        return attempt.child if attempt and attempt.outcome is None else None

    def cancel(self, claim: str, by: str) -> None:
        """Have a person's wish: stop a try, or never begin it."""
        attempt = self._tries.get(claim)
        if attempt is None or attempt.outcome is not None:
            return
        if attempt.child is None:
            attempt.outcome = Cancelled(by)
        else:
            attempt.child.stop(Cancelled(by), clock.now())

    def untold_progress(self) -> dict[str, Progress]:
        """Return, by claim, how far those are that have moved since it was told."""
        running = {c: a.child for c, a in self._tries.items() if a.outcome is None}
        return {
            claim: child.progress
            for claim, child in running.items()
            if child is not None
            and child.progress is not None
            and child.progress != child.told_progress
        }

    def progress_told(self, claims: Iterable[str]) -> None:
        """It was told how far these are."""
        for claim in claims:
            child = self._tries[claim].child
            if child is not None:
                child.told_progress = child.progress

    def left_to_themselves(self) -> bool:
        """Are all processes of those that are not over out of our reach?"""
        return all(child.out_of_reach for child in self.running())

    def stop(self, why: str, kill_at: float | None = None) -> None:
        """Ask all to stop through no fault of their own; see `Child.stop`."""
        for child in self.running():
            child.stop(Released(why), clock.now(), kill_at)

    def hand_in(self) -> list[tuple[str, Ended]]:
        """Return what has not been handed in, as it ended; count it as handed in."""
        ended: list[tuple[str, Ended]] = []
        for claim, attempt in self._tries.items():
            if attempt.outcome is not None and not attempt.handed_in:
                attempt.handed_in = True
                ended.append((claim, _ended(attempt.outcome, attempt.child)))
        return sorted(ended, key=lambda one: one[1].evidence.ended or 0.0)

    def take_back(self) -> None:
        """Whoever was handed the outcomes is gone: they are to be handed in again."""
        for attempt in self._tries.values():
            attempt.handed_in = False
            if attempt.child is not None:
                attempt.child.told_progress = None
