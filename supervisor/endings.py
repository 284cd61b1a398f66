"""How are the ends of tries written, though some are refused and some have to wait?

In the bookkeeper's process, at its desk: together, and else each alone, since a
poisoned row must not stop the rest.
"""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from . import clock
from .evidence import Ended
from .outcome import Failed, Lost, OutOfMemory, Succeeded
from .queue import Queue, QueueBusy, QueueUnavailable

logger = logging.getLogger("background_task.supervisor")

FLUSH = 0.02  # seconds that an ending waits for others, while there is work to start
_BUSY_FOR = 5.0  # seconds until a row that another had locked is tried again
_NEVER = math.inf
# In one transaction: it must not take so long that the lease is not renewed.
_MOST, _MOST_EVIDENCE = 100, 2_000_000  # endings, characters


class Written(Enum):
    """What became of an ending that was written alone."""

    RECORDED = "recorded"
    REFUSED = "refused"
    BUSY = "busy"  # another has locked its row


class Endings:
    """What has ended, by claim, and is not yet recorded."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._ended: dict[str, Ended] = {}
        self._busy: dict[str, float] = {}  # of these: until when it is left alone
        self._refused: dict[str, tuple[Ended, str]] = {}  # what end, and why
        self.write_at = _NEVER

    def __bool__(self) -> bool:
        return bool(self._ended)

    def add(self, claim: str, ended: Ended, *, at_once: bool) -> None:
        """Have it written, at once or with others that may end now."""
        self._ended[claim] = ended
        patience = 0.0 if at_once else FLUSH
        self.write_at = min(self.write_at, clock.now() + patience)

    def moments(self) -> list[float]:
        """Return when something is to be written next."""
        return [self.write_at, *self._busy.values()]

    def batch(self) -> dict[str, Ended]:
        """Return what is to be written now: no more than one transaction should."""
        batch: dict[str, Ended] = {}
        size = 0
        for claim, one in self._ended.items():
            if claim in self._busy:
                continue
            size += len(one.evidence.output) + len(one.evidence.stack)
            size += len(str(one.outcome))
            if len(batch) == _MOST or (batch and size > _MOST_EVIDENCE):
                break
            batch[claim] = one
        return batch

    def busy(self) -> list[str]:
        """Return the claims whose rows may not be in use any more."""
        return [claim for claim, until in self._busy.items() if until <= clock.now()]

    def forget(self, *claims: str) -> None:
        """They are recorded, or not to be written any more as they are."""
        for claim in claims:
            del self._ended[claim]
            self._busy.pop(claim, None)
        self.write_at = 0.0 if self._ended.keys() - self._busy.keys() else _NEVER

    def write_alone(self, claim: str) -> Written:
        """Write one, in a transaction of its own."""
        ended = self._ended[claim]
        try:
            why = self.record(claim, ended)
        except QueueBusy as error:
            self._is_busy(claim, error)
            return Written.BUSY
        self.forget(claim)
        if why:
            self._refused[claim] = ended, why
        return Written.REFUSED if why else Written.RECORDED

    def record(self, claim: str, ended: Ended) -> str:
        """Record it as it is, else with a text of plain ASCII; return why it failed."""
        why = self._alone(claim, self._record_one, ended)
        if why and (plain := _plain(ended)) != ended:
            why = self._alone(claim, self._record_one, plain)
        return why

    def settle(self, claim: str) -> bool:
        """Have done with a try whose end was refused, so that nobody holds it for ever.

        It is lost. If that is refused too, or if it succeeded and must not run again
        for it, its task is abandoned. Returns whether one of these could be written.
        """
        nothing = Ended(Lost("")), "it was refused"
        ended, why = self._refused.get(claim, nothing)
        lost = Lost(f"its end could not be recorded: {why}")
        text = str(lost)
        if succeeded := isinstance(ended.outcome, Succeeded):
            text = f"It succeeded, but that could not be recorded: {why}"
        elif not self.record(claim, replace(ended, outcome=lost)):
            return True
        abandon = functools.partial(self._queue.abandon, succeeded=succeeded)
        return not self._alone(claim, abandon, text)

    def _record_one(self, claim: str, ended: Ended) -> None:
        self._queue.record({claim: ended})

    def _alone(self, claim: str, write: Callable[[str, Any], None], what: Any) -> str:
        """Write about one try alone; return why it was refused, or nothing."""
        try:
            with self._queue.transaction():
                write(claim, what)
        except QueueUnavailable:
            raise
        except Exception as error:
            logger.exception("Recording the end of %s failed", claim)
            return f"{type(error).__name__}: {error}"
        self._refused.pop(claim, None)
        return ""

    def _is_busy(self, claim: str, error: QueueBusy) -> None:
        if claim not in self._busy:
            text = "The end of %s waits, since another has locked its row: %s"
            logger.warning(text, claim, error)
        self._busy[claim] = clock.now() + _BUSY_FOR


def _plain(ended: Ended) -> Ended:
    """Return the same in plain ASCII."""
    outcome, known = ended.outcome, ended.evidence
    if isinstance(outcome, Failed | OutOfMemory):
        outcome = replace(outcome, error=_plain_text(outcome.error))
    output, stack = _plain_text(known.output), _plain_text(known.stack)
    known = replace(known, output=output, stack=stack)
    return replace(ended, outcome=outcome, evidence=known)


def _plain_text(text: str) -> str:
    text = text.encode("ascii", "backslashreplace").decode()
    return "".join(c for c in text if c >= " " or c in "\n\t")
