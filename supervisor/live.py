"""What do people see of what runs, while it does?

Nobody looks most of the time, so that little is told, and nothing of what is short.
"""

import time
from collections.abc import Collection, Iterator
from typing import Any

from . import clock
from .child import Child
from .tries import Tries

_PROGRESS_EVERY = 1.0  # seconds
_STATE_EVERY = 2.0
_WORTH_SHOWING = 1.0  # that a try has run
_OUTPUT_EVERY = 1.0  # while somebody reads it
_STACK_AFTER, _STACK_BY = 0.05, 2.0  # after it was asked for
_NO_STACK = (
    "It does not tell its stack: it has not begun, blocks the signal that asks for it, "
    "or has not heard it in time."
)


class Live:
    """Tells the bookkeeper what runs, and what of it somebody asks to see."""

    def __init__(self) -> None:
        self._progress_at = self._state_at = self._output_at = 0.0
        self._moved = False  # has a task told of progress, and it is not passed on?
        self._state: dict[str, Any] = {}  # as it was told last
        self._read: set[str] = set()  # claims whose output somebody reads
        self._stacks: dict[str, float] = {}  # claims: when it was asked for

    def ask(self, output: Collection[str], stack: Collection[str]) -> None:
        """These claims are looked at; what was is not any more, if it is not named."""
        self._read = set(output)
        for claim in stack:
            self._stacks.setdefault(claim, 0.0)

    def told_nobody(self) -> None:
        """Whoever was told is gone, and whoever asked asks again."""
        self._state = {}
        self._read.clear()
        self._stacks.clear()

    def next_moment(self) -> list[float]:
        """Return when there is something to be told next."""
        moments = [self._progress_at] if self._moved else []
        moments += [self._output_at] if self._read else []
        return moments + [asked + _STACK_AFTER for asked in self._stacks.values()]

    def step(
        self, tries: Tries, *, moved: bool, draining: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield what is to be told now; `moved`: some have told of progress."""
        now = clock.now()
        self._moved = self._moved or moved
        if self._moved and now >= self._progress_at:
            self._moved = False
            yield from self._progress(tries, now)
        if now >= self._state_at:
            self._state_at = now + _STATE_EVERY
            yield from self._changed(tries, now, draining)
        if self._read and now >= self._output_at:
            self._output_at = now + _OUTPUT_EVERY
            yield from self._outputs(tries)
        yield from self._told_stacks(tries, now)

    def _progress(self, tries: Tries, now: float) -> Iterator[dict[str, Any]]:
        if untold := tries.untold_progress():
            self._progress_at = now + _PROGRESS_EVERY
            told = {c: [p.done, p.total, p.message] for c, p in untold.items()}
            yield {"kind": "progress", "tries": told}
            tries.progress_told(untold)

    def _changed(self, tries: Tries, now: float, draining: bool) -> Iterator[Any]:
        running = [
            _shown(child, now)
            for child in tries.running()
            if child.begun is not None and now - child.begun >= _WORTH_SHOWING
        ]
        state = {"running": running, "draining": draining}
        if state != self._state:
            self._state = state
            yield {"kind": "state", **state}

    def _outputs(self, tries: Tries) -> Iterator[dict[str, Any]]:
        for claim in self._read:
            child = tries.child(claim)
            if child is not None and child.witness is not None:
                output = child.witness.output
                what = {"size": output.size, "text": output.text()}
                yield {"kind": "answer", "verb": "output", "claim": claim, "what": what}

    def _told_stacks(self, tries: Tries, now: float) -> Iterator[dict[str, Any]]:
        for claim, asked in list(self._stacks.items()):
            child = tries.child(claim)
            if not asked and child is not None and child.ask_for_stack():
                self._stacks[claim] = now
                continue
            text = "" if child is None or not asked else child.told_stack()
            if text or not asked or now >= asked + _STACK_BY:
                del self._stacks[claim]
                what = {"text": text or _NO_STACK, "told": bool(text)}
                yield {"kind": "answer", "verb": "stack", "claim": claim, "what": what}


def _shown(child: Child, now: float) -> dict[str, Any]:
    """Return a try as people see it: what it holds, and what it may."""
    job = child.job
    assert child.begun is not None, "it has begun"
    return {
        "task": job.id,
        "name": job.name,
        "pid": child.pid,
        "began": round(time.time() - (now - child.begun)),
        "held": child.scales.held,
        "memory": job.limits.memory,
        "seconds": job.limits.seconds,
    }
