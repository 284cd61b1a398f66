"""Who claims, records, renews the lease and rescues?

All of it is done at one desk, in the bookkeeper's process, one turn after another.
"""

import logging
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from . import clock
from .channel import Channel, Message, wait
from .evidence import Ended
from .job import Job
from .outcome import Failed, Lost, OutOfMemory, Released, Succeeded
from .queue import Queue, QueueBusy, QueueUnavailable, QueueUnusable

logger = logging.getLogger("background_task.supervisor")

UNKNOWN_NAMES = (
    "Due, but in no tasks.py of an installed app, and so left alone: %s. Move them to "
    "one. After a deploy, restart process_tasks. Of tasks that were renamed or "
    "removed, keep a function under the old name, @background(name=...), or delete the "
    "rows."
)

UNKNOWN_QUEUES = (
    "No task of this project names this queue, and none is in it: %s. Is it spelled as "
    "in @background(queue=...)?"
)

_FIRST_POLL = 0.05  # seconds after something has happened; then slower and slower
_SLOWER = 1.5
_FLUSH = 0.02  # seconds that an ending waits for others, while there is work to start
_REST = 0.02  # seconds between two looks that a wake-up asked for, and found nothing
_NAMES_EVERY = 60.0  # seconds between two looks for tasks that nobody here knows
_PAUSE = 0.5, 1.5  # seconds between two claims, when a person has asked for it
_ROUNDS_EVERY = 1.0  # seconds between two looks at the other runners
_ROUNDS_AT_LEAST_EVERY = 60.0  # however often they fail
_PROGRESS_EVERY = 0.5  # seconds between two times that progress is written
_BUSY_FOR = 5.0  # seconds until a row that another had locked is tried again
_NEVER = math.inf
_MOST_EVIDENCE = 2_000_000  # characters of it in one transaction
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 5.0  # seconds between tries in an outage


class Desk:
    """What is to be written, what may be claimed, what is held."""

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        register: bool,
        *,
        lease: float,
        sleep: float,
        until_empty: bool = False,
    ) -> None:
        """`register`: the runner is new; the others are those of `Books`."""
        self._until_empty = until_empty
        self._channel = channel
        self._queue = queue
        self._lease = lease
        self._sleep = sleep
        self._register = register
        self._open = False
        self._briefed = False  # has `holding` come?
        self._announce = True  # is anybody told of what is recorded?
        self._leaving = False
        self._draining = False
        self._pauses = False  # between two claims
        self._progress: dict[str, list[Any]] = {}  # that is to be written
        self._progress_at = 0.0
        self._rests_until = 0.0
        self._credits = 0
        self._held: set[str] = set()
        self._ended: dict[str, Ended] = {}
        self._busy: dict[str, float] = {}  # of these: until when it is left alone
        self._let_go: set[str] = set()
        self._refused: dict[str, tuple[Ended, str]] = {}  # what end, and why
        self._swept: list[str] = []
        self._dry = False  # has nothing come up since that was said?
        self._waits_for_memory = False  # does what may be due?
        self._any_dead = True  # in this place, and not yet rescued
        self._rounds_after = _ROUNDS_EVERY
        self._told_of: set[str] = set()
        self._queues_told_of: set[str] = set()
        self._names_at = 0.0
        self._available: bool | None = None
        self._retry_after = _FIRST_RETRY
        self._poll_after = _FIRST_POLL
        self._write_at = _NEVER  # what has ended
        self._heard = False  # that something was enqueued
        self._hear_at = 0.0
        self._poll_at = self._renew_at = self._retry_at = self._rounds_at = 0.0

    def work(self) -> None:
        """Take turns until told to leave, or until the supervisor is gone."""
        try:
            while not self._channel.ended and not self._may_leave():
                try:
                    self._turn()
                    self._wait()
                except QueueUnavailable as error:
                    self._lost_touch(error)
        except QueueUnusable as error:
            self._last_word("unusable", str(error))
        except _Fenced:
            self._last_word("fenced")
        if self._may_leave():
            self._sign_off()

    def _may_leave(self) -> bool:
        return self._leaving and not self._ended

    def _turn(self) -> None:
        """Renew, look after others, record, claim: what is due of it."""
        if clock.now() < self._retry_at:
            return
        if not self._open:
            self._queue.open(register=self._register)
            self._open = True
        if self._renew_at <= clock.now():
            self._renew()
        # Not before it is known how often a task may be tried.
        if self._briefed and (self._rounds_at <= clock.now() or self._swept):
            self._look_after_others()
        if self._write_at <= clock.now() or self._wants_to_claim():
            self._write_and_claim()
        if self._progress and self._progress_at <= clock.now():
            self._write_progress()
        self._try_the_busy()
        self._in_touch()

    def _renew(self) -> None:
        """Prolong the lease, and compare what the queue and the supervisor hold."""
        sent = clock.now()
        with self._queue.transaction():
            if not self._queue.renew():
                raise _Fenced
        self._renew_at = sent + self._lease / 3
        self._channel.send("lease", sent_at=sent)
        if self._briefed:
            self._compare()

    def _compare(self) -> None:
        """Settle the rows that are locked by this runner and that nobody works on.

        A claim of an earlier bookkeeper that the supervisor never read did not start:
        it is released. One whose end was refused is settled in another way. What can't
        be settled now is left to the next renewal.
        """
        try:
            for claim in self._queue.strays(self._held):
                given_back = Released("claimed, and never started")
                self._record_alone(claim, Ended(given_back))
            for claim in sorted(self._let_go):
                if self._settled(claim):
                    self._let_go.remove(claim)
                    self._held.discard(claim)
                    self._tell(recorded=[claim])
        except QueueBusy as error:
            logger.warning("A row that is to be settled is in use: %s", error)

    def _settled(self, claim: str) -> bool:
        """Have done with a try whose end was refused, so that nobody holds it for ever.

        It is lost. If that is refused too, or if it succeeded and must not run again
        for it, its task is abandoned.
        """
        nothing = Ended(Lost("")), "it was refused"
        ended, why = self._refused.get(claim, nothing)
        lost = Lost(f"its end could not be recorded: {why}")
        text = str(lost)
        if isinstance(ended.outcome, Succeeded):
            text = f"It succeeded, but that could not be recorded: {why}"
        elif not self._record_alone(claim, replace(ended, outcome=lost)):
            return True
        return not self._alone(claim, self._queue.abandon, text)

    def _record_alone(self, claim: str, ended: Ended) -> str:
        """Record it as it is, else with a text of plain ASCII; return why it failed."""
        why = self._alone(claim, self._record_one, ended)
        if why and (plain := _plain(ended)) != ended:
            why = self._alone(claim, self._record_one, plain)
        return why

    def _record_one(self, claim: str, ended: Ended) -> None:
        self._queue.record({claim: ended})

    def _alone(self, claim: str, write: Callable[[str, Any], None], what: Any) -> str:
        """Write about one try alone, since a poisoned row must not stop the rest.

        Return why it was refused, or nothing.
        """
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

    def _look_after_others(self) -> None:
        """Release what dead runners held; have the dead of this place swept first.

        What goes wrong with it, but for an outage, must not stop our own work: it is
        told of, and the next look comes later and later.
        """
        self._rounds_at = clock.now() + min(self._rounds_after, self._lease / 3)
        self._any_dead = True
        try:
            self._go_round()
        except Exception as error:
            if _is_away(error):
                raise
            text = "What dead runners held could not be rescued now"
            if isinstance(error, QueueBusy):
                logger.warning("%s: a row is in use: %s", text, error)
            else:
                logger.exception(text)
            self._swept.clear()  # they are found dead again
            self._rounds_at = clock.now() + self._rounds_after
            self._rounds_after = min(self._rounds_after * 2, _ROUNDS_AT_LEAST_EVERY)
        else:
            self._rounds_after = _ROUNDS_EVERY

    def _go_round(self) -> None:
        while self._swept:
            self._rescued(self._queue.rescue(self._swept[0]), self._swept[0])
            self._swept.pop(0)
        self._rescued(self._queue.rescue(), "expired")
        dead = self._queue.dead_runners()
        for runner in dead:
            self._channel.send(
                "sweep", runner=runner.id, pid=runner.pid, started=runner.started
            )
        self._any_dead = bool(dead)

    def _rescued(self, tries: int, whose: str) -> None:
        if tries:
            logger.warning("Tries rescued from a dead runner (%s): %s", whose, tries)
            self._tell()
            self._poll_at = 0.0

    def _wants_to_claim(self) -> bool:
        """Is it time to look, and is there something to be had?"""
        if not self._may_claim():
            return False
        if self._hear_at <= clock.now():
            self._listen()
        if clock.now() < self._poll_at:
            return False
        if self._heard or self._queue.may_be_due():
            return True
        self._found_too_few()
        return False

    def _may_claim(self) -> bool:
        allowed = self._briefed and not self._draining and self._credits > 0
        return allowed and clock.now() >= self._rests_until

    def _write_progress(self) -> None:
        """Write how far tries are, each alone; what is in use waits a second."""
        self._progress_at = clock.now() + _PROGRESS_EVERY
        for claim, told in list(self._progress.items()):
            try:
                if claim in self._held:
                    self._queue.progress(claim, *told)
                del self._progress[claim]
            except QueueBusy:
                continue
            except QueueUnavailable:
                raise
            except Exception:
                logger.exception("The progress of %s could not be written", claim)
                del self._progress[claim]

    def _write_and_claim(self) -> None:
        ended = self._next_endings()
        wanted = self._credits if self._may_claim() else 0
        try:
            jobs = self._transaction(ended, wanted)
        except Exception as error:
            if _is_away(error):
                raise
            if not isinstance(error, QueueBusy):
                text = "A turn with %s outcomes failed; trying each"
                logger.exception(text, len(ended))
            self._found_too_few(dry=False)
            self._record_one_by_one(ended)
            return
        self._committed(list(ended), [job.to_message() for job in jobs])
        if len(jobs) < wanted:
            self._found_too_few(dry=not jobs)

    def _next_endings(self) -> dict[str, Ended]:
        """Return what is to be written now: no more than a statement can hold."""
        ended: dict[str, Ended] = {}
        size = 0
        for claim, one in self._ended.items():
            if claim in self._busy:
                continue
            size += len(one.evidence.output) + len(one.evidence.stack)
            if ended and size > _MOST_EVIDENCE:
                break
            ended[claim] = one
        return ended

    def _transaction(self, ended: dict[str, Ended], wanted: int) -> list[Job]:
        if left := [session for one in ended.values() for session in one.sessions]:
            self._queue.end_sessions(left)
        with self._queue.transaction():
            if ended:
                self._queue.record(ended)
            held = self._held.difference(ended)
            jobs = self._queue.claim(wanted, held) if wanted else []
        self._credits -= len(jobs)
        self._held.update(job.claim for job in jobs)
        if jobs and self._pauses:
            self._rests_until = clock.now() + random.uniform(*_PAUSE)
        return jobs

    def _committed(self, recorded: list[str], jobs: list[dict[str, Any]]) -> None:
        for claim in recorded:
            del self._ended[claim]
            self._busy.pop(claim, None)
            self._held.discard(claim)
        self._write_at = 0.0 if self._ended.keys() - self._busy.keys() else _NEVER
        if recorded or jobs:
            self._dry = False
            self._soon()
            self._tell(recorded=recorded, jobs=jobs)

    def _tell(
        self, *, recorded: Iterable[str] = (), jobs: Any = (), dry: bool = False
    ) -> None:
        """Say what a transaction has done, and what is to be announced of it."""
        news = self._queue.news()
        self._channel.send(
            "turn",
            recorded=list(recorded),
            jobs=list(jobs),
            dry=dry,
            news=news if self._announce else [],
        )

    def _record_one_by_one(self, ended: dict[str, Ended]) -> None:
        """One poisoned outcome, or one row that is in use, must not stop the rest.

        Waiting for rows must not keep the lease from being renewed.
        """
        for claim, one in ended.items():
            if self._renew_at <= clock.now():
                return
            try:
                why = self._record_alone(claim, one)
            except QueueBusy as error:
                self._is_busy(claim, error)
                continue
            if why:
                del self._ended[claim]
                self._busy.pop(claim, None)
                self._refused[claim] = one, why
                self._channel.send("refused", claim=claim)
            else:
                self._committed([claim], [])

    def _try_the_busy(self) -> None:
        due = [claim for claim, until in self._busy.items() if until <= clock.now()]
        self._record_one_by_one({claim: self._ended[claim] for claim in due})

    def _is_busy(self, claim: str, error: QueueBusy) -> None:
        if claim not in self._busy:
            text = "The end of %s waits, since another has locked its row: %s"
            logger.warning(text, claim, error)
        self._busy[claim] = clock.now() + _BUSY_FOR

    def _found_too_few(self, *, dry: bool = True) -> None:
        """Nothing more is due: say so, and look less and less often.

        It is not said while what a dead runner of this place held may become due.
        """
        self._hear_at = clock.now() + _REST if dry and self._heard else 0.0
        self._heard = False
        if dry and not self._dry and self._until_empty:
            self._names_at = 0.0  # it may be the last one
        self._tell_of_the_unknown()
        logger.debug("Waiting for tasks")
        if dry:
            self._say_dry()
        planned = self._queue.next_due(self._poll_after)
        wait = self._poll_after if planned is None else planned
        self._poll_at = clock.now() + max(0.0, wait)
        self._poll_after = min(self._poll_after * _SLOWER, self._sleep)

    def _say_dry(self) -> None:
        if not self._dry and self._rounds_after == _ROUNDS_EVERY:  # else they fail
            self._look_after_others()
        self._dry = True
        self._tell(dry=not self._any_dead and not self._waits_for_memory)

    def _tell_of_the_unknown(self) -> None:
        """Warn, once for each, of due tasks that nobody here can run.

        And of queues that are served, and that nobody has ever used.
        """
        if clock.now() < self._names_at:
            return
        self._names_at = clock.now() + _NAMES_EVERY
        if queues := self._queue.unknown_queues() - self._queues_told_of:
            self._queues_told_of |= queues
            logger.warning(UNKNOWN_QUEUES, ", ".join(sorted(queues)))
        if names := self._queue.unknown_names() - self._told_of:
            self._told_of |= names
            logger.warning(UNKNOWN_NAMES, ", ".join(sorted(names)))

    def _listen(self) -> bool:
        """Note whether something was enqueued; return whether it was."""
        if self._queue.heard():
            self._heard = True
            self._soon()
        return self._heard

    def _soon(self) -> None:
        """Something happened: more of it may follow."""
        self._poll_at = 0.0
        self._poll_after = min(_FIRST_POLL, self._sleep)

    def _lost_touch(self, error: QueueUnavailable) -> None:
        self._available = False
        self._channel.send("unavailable", error=str(error))
        self._retry_at = clock.now() + self._retry_after * random.uniform(0.8, 1.2)
        longest = min(_LONGEST_RETRY, self._lease / 12)  # see lease.py
        self._retry_after = min(self._retry_after * 2, longest)
        self._renew_at = 0.0  # renew and compare first: a commit may have been made

    def _in_touch(self) -> None:
        self._available = True
        self._retry_at, self._retry_after = 0.0, _FIRST_RETRY

    def _wait(self) -> None:
        """Wait for a message, a wake-up, or the moment at which a turn is due."""
        waiting = [self._channel] if self._channel.waiting_to_send else []
        readable, until = [self._channel, *self._ears()], self._next_turn()
        may_hear, every = self._may_hear(), self._queue.hear_every()
        # First, since what was to be heard may have come with an answer of the turn.
        while not (may_hear and self._listen() and self._poll_at <= clock.now()):
            left = until - clock.now()
            longest = min(left, every) if may_hear and every else left
            if left <= 0 or wait(readable, waiting, longest):
                break
        self._channel.flush()
        for message in self._channel.receive():
            self._heed(message)

    def _ears(self) -> list[Queue]:
        """What tells of tasks that were enqueued; nothing while none could be claimed.

        Then a storm of them makes nobody busy.
        """
        listens = self._may_hear() and self._queue.fileno() is not None
        return [self._queue] if listens else []

    def _may_hear(self) -> bool:
        fit = self._available is not False and self._hear_at <= clock.now()
        return fit and self._may_claim()

    def _next_turn(self) -> float:
        if self._available is False:
            return self._retry_at
        moments = [self._renew_at, self._write_at]
        if self._briefed:
            moments.append(0.0 if self._swept else self._rounds_at)
        if self._progress:
            moments.append(self._progress_at)
        moments += self._busy.values()
        if self._briefed and self._credits and not self._draining:
            moments.append(max(self._poll_at, self._rests_until))
            if self._hear_at > clock.now():
                moments.append(self._hear_at)
        return min(moments)

    def _heed(self, message: Message) -> None:
        match message:
            case {"kind": "holding", "claims": list(claims), "tasks": dict(tasks)}:
                self._announce = message["announce"]
                self._held.update(claims)
                self._queue.know(tasks)
                self._briefed = True
                self._renew_at = 0.0  # compare before anything is claimed
            case {"kind": "want", "n": int(n), "at_once": bool(at_once)}:
                self._credits += n
                if not at_once:
                    self._poll_at = max(self._poll_at, clock.now() + _FLUSH)
            case {"kind": "ended", "claim": str(claim), "ended": dict(ended)}:
                self._ended[claim] = Ended.from_message(ended)
                patience = 0.0 if message["at_once"] else _FLUSH
                self._write_at = min(self._write_at, clock.now() + patience)
            case {"kind": "admit", "avoided": list(avoided)}:
                self._queue.admit(avoided, message["only"])
                self._waits_for_memory = bool(avoided) or message["only"] is not None
                self._soon()
            case {"kind": "progress", "tries": dict(tries)}:
                self._progress |= tries
            case {"kind": "let_go", "claim": str(claim)}:
                self._let_go.add(claim)
                self._renew_at = 0.0
            case {"kind": "swept", "runner": str(runner)}:
                self._swept.append(runner)
                self._renew_at = 0.0
            case {"kind": "pace", "pauses": bool(pauses)}:
                self._pauses = pauses
                self._rests_until = 0.0
            case {"kind": "drain"}:
                self._draining = True
                self._credits = 0
            case {"kind": "leave"}:
                self._draining = self._leaving = True

    def _last_word(self, kind: str, text: str = "") -> None:
        """Say it and wait until it has been read: then the supervisor hangs up."""
        self._channel.send(kind, text=text)
        while not self._channel.ended:
            wait([self._channel])
            said = [message["kind"] for message in self._channel.receive()]
            self._leaving = self._leaving or "leave" in said

    def _sign_off(self) -> None:
        """Give back what was claimed and nobody read of, and forget the runner.

        The supervisor holds nothing when it says `leave`.
        """
        if not self._open:
            return
        try:
            with self._queue.transaction():
                given_back = Ended(Released("claimed, and never started"))
                if strays := self._queue.strays(()):
                    self._queue.record(dict.fromkeys(strays, given_back))
            self._queue.close()
        except QueueUnavailable as error:
            logger.warning("The runner could not sign off: %s", error)


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


def _is_away(error: Exception) -> bool:
    """Is the whole queue unavailable, and not just one row in use?"""
    return isinstance(error, QueueUnavailable) and not isinstance(error, QueueBusy)


class _Fenced(Exception):
    """The runner's row is gone: others have taken over what it held."""
