"""Who claims, records, renews the lease and rescues?

All of it is done at one desk, in the bookkeeper's process, one turn after another.
"""

import logging
import random
from collections.abc import Iterable, Iterator
from typing import Any

from . import clock
from .channel import Channel, Message, wait
from .endings import FLUSH, Endings, Written
from .evidence import Ended
from .job import Job
from .orders import OrderDesk
from .outcome import Released
from .pools import pool_of
from .queue import Queue, QueueBusy, QueueUnavailable, QueueUnusable, is_away
from .rounds import Rounds

logger = logging.getLogger("background_task.supervisor")

UNKNOWN_NAMES = (
    "Due, but in no tasks.py of an installed app, and so left alone: %s. Move them to "
    "one. After a deploy, restart process_tasks. Of tasks that were renamed or "
    "removed, keep a function under the old name, @background(name=...), or cancel "
    "them: manage.py tasks_cancel --name NAME."
)

UNKNOWN_QUEUES = (
    "No task of this project names this queue, and none is in it: %s. Is it spelled as "
    "in @background(queue=...)?"
)

_FIRST_POLL = 0.05  # seconds after something has happened; then slower and slower
_SLOWER = 1.5
_REST = 0.02  # seconds between two looks that a wake-up asked for, and found nothing
_NAMES_EVERY = 60.0  # seconds between two looks for tasks that nobody here knows
_PAUSE = 0.5, 1.5  # seconds between two claims, when a person has asked for it
_PROGRESS_EVERY = 0.5  # seconds between two times that progress is written
_REST_OF_CALLS = 0.1  # seconds between two looks that a wake-up asked for in vain
_PRUNE_EVERY = 60.0  # seconds between two looks at what need not be kept
_PRUNE_ON = 1.0  # seconds after which it is gone on with
_PRUNED_IDLE, _PRUNED_BUSY = 500, 100  # tasks at a time, without and beside other work
_PRUNE_AFTER_ERROR = 3600.0  # seconds
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
        self._times: dict[str, float] = {}  # what the last transaction took, in seconds
        self._rests_until = 0.0
        self._orders = OrderDesk(channel, queue)
        self._call_at = 0.0  # when it is listened to again for new ones
        # By pool; below 0 if some was taken back that was spent already.
        self._credits: dict[str | None, int] = {}
        self._held: set[str] = set()
        self._endings = Endings(queue)
        self._let_go: set[str] = set()  # what was refused, and is to be settled
        self._rounds = Rounds(channel, queue, lease, self._rescued)
        self._dry = False  # has nothing come up since that was said?
        self._waits_for_memory = False  # does what may be due?
        self._told_of: set[str] = set()
        self._queues_told_of: set[str] = set()
        self._names_at = 0.0
        self._available: bool | None = None
        self._pauses_in_outage = pauses(lease)
        self._poll_after = _FIRST_POLL
        self._heard = False  # that something was enqueued
        self._hear_at = 0.0
        self._prune_at = clock.now() + random.uniform(1, 2) * _PRUNE_ON
        self._poll_at = self._renew_at = self._retry_at = 0.0

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
        return self._leaving and not self._endings

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
        if self._briefed:
            if self._rounds.next_moment() <= clock.now():
                self._rounds.go()
            self._take_orders()
        if self._endings.write_at <= clock.now() or self._wants_to_claim():
            if self._may_claim():  # and nothing of what was paused a moment ago
                self._read_orders()
            self._write_and_claim()
        if self._progress and self._progress_at <= clock.now():
            self._write_progress()
        self._orders.show()
        self._record_one_by_one(self._endings.busy())
        if self._may_prune() and self._prune_at <= clock.now():
            self._prune()
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
                self._endings.record(claim, Ended(given_back))
            for claim in sorted(self._let_go):
                if self._endings.settle(claim):
                    self._let_go.remove(claim)
                    self._held.discard(claim)
                    self._tell(recorded=[claim])
        except QueueBusy as error:
            text = "A stray claim is left to the next renewal: its row is locked: %s"
            logger.warning(text, error)

    def _rescued(self) -> None:
        self._tell()
        self._poll_at = 0.0

    def _take_orders(self) -> None:
        if self._orders.due:
            self._read_orders()
        if self._orders.settle(self._held):
            self._tell()

    def _read_orders(self) -> None:
        if self._orders.read(self._held):
            self._soon()  # other queues than before are claimed from

    def _wants_to_claim(self) -> bool:
        """Is it time to look, and is there something to be had?"""
        if not self._may_claim():
            return False
        if self._hear_at <= clock.now():
            self._listen()
        if clock.now() < self._poll_at:
            return False
        if self._heard or self._queue.may_be_due(self._wanted()):
            return True
        self._found_too_few()
        return False

    def _may_claim(self) -> bool:
        return self._is_open() and clock.now() >= self._rests_until

    def _is_open(self) -> bool:
        """Would it claim, but for the pauses in between?"""
        knows = self._briefed and self._orders.known
        return knows and not self._draining and bool(self._wanted())

    def _wanted(self) -> dict[str | None, int]:
        """Return how many jobs may be claimed, by pool, of those that are not full."""
        return {pool: n for pool, n in self._credits.items() if n > 0}

    def _write_progress(self) -> None:
        """Write how far tries are, each alone; what is in use waits for the next."""
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

    def _may_prune(self) -> bool:
        return self._briefed and not self._draining

    def _prune(self) -> None:
        """Remove a few completed tasks; fewer at a time while there is other work.

        When it is done, or another runner is at it, the next look is a minute away.
        """
        self._prune_at = clock.now() + _PRUNE_EVERY * random.uniform(0.5, 1.5)
        idle = self._dry and not self._endings
        most = _PRUNED_IDLE if idle else _PRUNED_BUSY
        try:
            if self._queue.prune(most) == most:
                self._prune_at = clock.now() + _PRUNE_ON
        except Exception as error:
            if is_away(error):
                raise
            if not isinstance(error, QueueBusy):
                logger.exception("Completed tasks could not be pruned")
                self._prune_at = clock.now() + _PRUNE_AFTER_ERROR

    def _write_and_claim(self) -> None:
        ended = self._endings.batch()
        wanted = self._wanted() if self._may_claim() else {}
        try:
            jobs = self._transaction(ended, wanted)
        except Exception as error:
            if is_away(error):
                raise
            if not isinstance(error, QueueBusy):
                text = "A turn with %s outcomes failed; trying each"
                logger.exception(text, len(ended))
            self._found_too_few(dry=False)
            self._record_one_by_one(ended)
            return
        self._endings.forget(*ended)
        self._recorded(list(ended), jobs)
        if len(jobs) < sum(wanted.values()):
            self._found_too_few(dry=not jobs)

    def _transaction(
        self, ended: dict[str, Ended], wanted: dict[str | None, int]
    ) -> list[Job]:
        if left := [session for one in ended.values() for session in one.sessions]:
            self._queue.end_sessions(left)
        began = recorded_at = clock.now()
        with self._queue.transaction():
            if ended:
                self._queue.record(ended)
                recorded_at = clock.now()
            held = self._held.difference(ended)
            jobs = self._queue.claim(wanted, held) if wanted else []
        if wanted:
            self._times["claim"] = clock.now() - recorded_at
        if ended:
            self._times["record"] = (recorded_at if wanted else clock.now()) - began
        for job in jobs:
            self._credits[pool_of(job, self._credits)] -= 1
        self._held.update(job.claim for job in jobs)
        if jobs and self._pauses:
            self._rests_until = clock.now() + random.uniform(*_PAUSE)
        return jobs

    def _recorded(self, claims: list[str], jobs: Iterable[Job] = ()) -> None:
        """Pass on what was committed."""
        self._held.difference_update(claims)
        messages = [job.to_message() for job in jobs]
        if claims or messages:
            self._dry = False
            self._soon()
            self._tell(recorded=claims, jobs=messages)

    def _tell(
        self, *, recorded: Iterable[str] = (), jobs: Any = (), dry: bool = False
    ) -> None:
        """Say what a transaction has done, and what is to be announced of it."""
        news = self._queue.news()
        times, self._times = self._times, {}
        self._channel.send(
            "turn",
            recorded=list(recorded),
            jobs=list(jobs),
            dry=dry,
            news=news if self._announce else [],
            times=times,
        )

    def _record_one_by_one(self, claims: Iterable[str]) -> None:
        """One poisoned outcome, or one row that is in use, must not stop the rest.

        Waiting for rows must not keep the lease from being renewed.
        """
        for claim in claims:
            if self._renew_at <= clock.now():
                return
            match self._endings.write_alone(claim):
                case Written.RECORDED:
                    self._recorded([claim])
                case Written.REFUSED:
                    self._channel.send("refused", claim=claim)
                case Written.BUSY:
                    continue

    def _found_too_few(self, *, dry: bool = True) -> None:
        """Nothing more is due: say so, and look less and less often.

        It is not said while what a dead runner of this place held may become due, nor
        while a pool is full, whose tasks were not looked for.
        """
        self._hear_at = clock.now() + _REST if dry and self._heard else 0.0
        self._heard = False
        if dry and not self._dry and self._until_empty:
            self._names_at = 0.0  # it may be the last one
        self._tell_of_the_unknown()
        logger.debug("Waiting for tasks")
        wanted = self._wanted()
        planned = self._queue.next_due(self._poll_after, wanted)
        wait = self._poll_after if planned is None else planned
        self._poll_at = clock.now() + max(0.0, wait)
        self._poll_after = min(self._poll_after * _SLOWER, self._sleep)
        if dry and len(wanted) == len(self._credits):
            self._say_dry()

    def _say_dry(self) -> None:
        if not self._dry and not self._rounds.fail:
            self._rounds.go()
        self._dry = True
        may_be_due = self._rounds.any_dead or self._waits_for_memory
        looks_again = self._poll_at <= clock.now()  # something was rescued
        self._tell(dry=not may_be_due and not looks_again)

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
        """Note whether something was enqueued; return whether it was.

        All idle runners hear it, and one has it: those that find nothing do not look
        any sooner again. Whoever finds something does.
        """
        if self._queue.heard():
            self._heard = True
            self._poll_at = 0.0
        return self._heard

    def _soon(self) -> None:
        """Something happened: more of it may follow."""
        self._poll_at = 0.0
        self._poll_after = min(_FIRST_POLL, self._sleep)

    def _lost_touch(self, error: QueueUnavailable) -> None:
        """Try again later: renew and compare first, since a commit may have been made.

        Then all that may have failed: a queue that can renew, and cannot write, is not
        available again.
        """
        self._available = False
        self._channel.send("unavailable", error=str(error))
        self._retry_at = clock.now() + next(self._pauses_in_outage)
        self._renew_at = self._progress_at = 0.0
        self._rounds.soon()

    def _in_touch(self) -> None:
        """All that was due has been done."""
        if not self._available:
            self._channel.send("available")
            self._pauses_in_outage = pauses(self._lease)
        self._available = True
        self._retry_at = 0.0

    def _wait(self) -> None:
        """Wait for a message, a wake-up, or the moment at which a turn is due."""
        waiting = [self._channel] if self._channel.waiting_to_send else []
        readable, until = [self._channel, *self._ears()], self._next_turn()
        ready: set[int] = set()
        may_hear, every = self._may_hear(), self._queue.hear_every()
        # First, since what was to be heard may have come with an answer of the turn.
        while not (may_hear and self._listen() and self._poll_at <= clock.now()):
            left = until - clock.now()
            longest = min(left, every) if may_hear and every else left
            if left <= 0 or (ready := wait(readable, waiting, longest)):
                break
        self._hear_calls(ready)
        self._channel.flush()
        for message in self._channel.receive():
            self._heed(message)

    def _hear_calls(self, ready: set[int]) -> None:
        """Note whether there are new orders; rest a little from wake-ups in vain."""
        if not self._may_be_called():
            return
        self._orders.called |= self._queue.called()
        if self._queue.fileno() in ready and not (
            self._orders.called or self._may_hear()
        ):
            self._call_at = clock.now() + _REST_OF_CALLS

    def _may_be_called(self) -> bool:
        return self._available is not False and self._call_at <= clock.now()

    def _ears(self) -> list[Queue]:
        """What tells of tasks that were enqueued, and of orders.

        While nothing could be claimed it is heard now and then only: a storm of tasks
        makes nobody busy.
        """
        may_hear = self._may_hear() or self._may_be_called()
        listens = may_hear and self._queue.fileno() is not None
        return [self._queue] if listens else []

    def _may_hear(self) -> bool:
        fit = self._available is not False and self._hear_at <= clock.now()
        return fit and self._may_claim()

    def _next_turn(self) -> float:
        if self._available is False:
            return self._retry_at
        moments = [self._renew_at, *self._endings.moments()]
        if self._briefed:
            moments += [self._rounds.next_moment(), self._orders.next_moment()]
        if self._progress:
            moments.append(self._progress_at)
        if not self._may_be_called() and not self._may_hear():
            moments.append(self._call_at)
        if self._may_prune():
            moments.append(self._prune_at)
        if self._is_open():
            moments.append(max(self._poll_at, self._rests_until))
            if self._hear_at > clock.now():
                moments.append(self._hear_at)
        return min(moments)

    def _heed(self, message: Message) -> None:
        match message:
            case {"kind": "holding", "claims": list(claims), "tasks": dict(tasks)}:
                self._announce = message["announce"]
                self._credits = dict.fromkeys(message["pools"], 0)
                self._held.update(claims)
                self._queue.know(tasks)
                self._briefed = True
                self._renew_at = 0.0  # compare before anything is claimed
            case {"kind": "want", "n": int(n), "at_once": bool(at_once)}:
                pool = message["pool"]
                if self._credits[pool] <= 0 < n:
                    self._soon()  # nobody has looked while it was full
                self._credits[pool] += n
                if not at_once:
                    self._poll_at = max(self._poll_at, clock.now() + FLUSH)
            case {"kind": "ended", "claim": str(claim), "ended": dict(ended)}:
                end = Ended.from_message(ended)
                self._endings.add(claim, end, at_once=message["at_once"])
            case {"kind": "admit", "avoided": list(avoided)}:
                self._queue.admit(avoided, message["only"])
                self._waits_for_memory = bool(avoided) or message["only"] is not None
                self._soon()
            case {"kind": "progress", "tries": dict(tries)}:
                self._progress |= tries
            case {"kind": "state" | "answer"}:
                self._orders.heed(message)
            case {"kind": "let_go", "claim": str(claim)}:
                self._let_go.add(claim)
                self._renew_at = 0.0
            case {"kind": "swept", "runner": str(runner)}:
                self._rounds.is_swept(runner)
                self._renew_at = 0.0
            case {"kind": "pace", "pauses": bool(pauses)}:
                self._pauses = pauses
                self._rests_until = 0.0
            case {"kind": "drain"}:
                self._draining = True
            case {"kind": "leave"}:
                self._draining = self._leaving = True

    def _last_word(self, kind: str, text: str = "") -> None:
        """Say it and wait until it has been read: then the supervisor hangs up."""
        self._channel.send(kind, text=text)
        while not self._channel.ended:
            self._channel.wait()
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


def pauses(lease: float) -> Iterator[float]:
    """Yield the seconds between tries in an outage: longer and longer, to a bound.

    No two runners keep step: they would all come back at the same moment.
    """
    pause, longest = _FIRST_RETRY, min(_LONGEST_RETRY, lease / 12)  # see lease.py
    while True:
        yield min(pause, longest) * random.uniform(0.8, 1.2)
        pause = min(pause * 2, longest)


class _Fenced(Exception):
    """The runner's row is gone: others have taken over what it held."""
