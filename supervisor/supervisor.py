"""The loop: claim, watch, enforce and record, until told to stop.

Called from the main thread of the `process_tasks` process. Nothing in it blocks, it
never touches the queue's database, and no code of a task runs in it.
"""

import contextlib
import logging
import math
import os
import selectors
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from setproctitle import getproctitle, setproctitle

from . import clock, processes, sweeper
from .aide import Aide, Backoff
from .bookkeeper import Bookkeeper
from .channel import Channel, Message
from .child import Child
from .job import Job
from .launcher import Launcher
from .lease import Lease
from .logrelay import LogRelay
from .options import Options
from .outcome import Crashed, Outcome, Released
from .queue import Runner
from .sweeper import Sweeper
from .wakeups import Wakeups

logger = logging.getLogger("background_task.supervisor")

EX_FAILED, EX_UNWRITTEN = 1, 75

_DRAIN = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_HEEDED = [*_DRAIN, signal.SIGTSTP, signal.SIGCHLD]
_NEVER = math.inf
_MEMORY_EVERY = 0.1  # seconds between two looks at what the tasks hold
_LAST_RECORD = 5.0  # seconds for what is still to be written at the end
_PING_EVERY, _PING_TIMEOUT = 2.0, 10.0
_BOOKKEEPER_SILENCE = 0.6  # of the lease: it speaks at every third of it
_UNPREPARED_IN_A_ROW = 3
_CHILD_CHUNK, _CHILD_LONGEST_LINE = 1 << 18, 1 << 20  # bytes


@dataclass(slots=True)
class Try:
    """One claimed job on its way to the books."""

    job: Job
    child: Child | None = None
    outcome: Outcome | None = None
    handed_in: bool = False


class Supervisor:
    """Owns what is held, and the moment at which it is to stop."""

    def __init__(
        self, bookkeeper: Bookkeeper, launcher: Launcher, options: Options
    ) -> None:
        self.bookkeeper = bookkeeper
        self.launcher = launcher
        self.options = options
        # None: go on. Otherwise claim no more, and stop what runs at this moment.
        self.stopping: float | None = None
        self.tries: dict[str, Try] = {}  # by claim: claimed and not yet recorded
        self._children: dict[int, Child] = {}  # by number: not yet dead and swept
        self._numbers = 0
        self._tasks: dict[str, Any] | None = None  # what the project can run
        self._credits = 0  # jobs that the bookkeeper may still claim for us
        self._dry = False  # the last look found nothing due
        self.failure = ""  # why the exit status is not 0
        self._clearing = False  # the launcher is gone; its tasks may not be
        self._fenced = False
        self._unavailable = False
        self._unprepared = 0  # in a row
        self._starts = Backoff()
        self._memory_at = self._ping_at = self._enforced_at = 0.0
        self._leave_by: float | None = None

    def run(self) -> int:
        """Claim, watch and record until told to stop and nothing is left running.

        Returns the exit status: 0; 1 when it cannot work at all; 75 when something
        could not be written. `failure` says why it is not 0.
        """
        with self._set_up():
            while not self._finished():
                self._wait()
                self._heed_signals()
                self._hear_bookkeeper()
                self._hear_launcher()
                self._hear_children()
                self._enforce_limits()
                self._sweep()
                self._hand_in_outcomes()
                self._start_claimed_jobs()
                self._ask_for_jobs()
            return self._exit_status()

    # What there is while the loop runs

    @contextlib.contextmanager
    def _set_up(self) -> Iterator[None]:
        """Have wake-ups, a log that cannot block and both aides; end them all."""
        title, former_mark = getproctitle(), os.environ.get(processes.MARK)
        self._sweeper = Sweeper()
        with (
            Wakeups(_HEEDED) as self._wakeups,
            LogRelay("background_task"),
            selectors.DefaultSelector() as self._selector,
        ):
            self._selector.register(self._wakeups, selectors.EVENT_READ)
            processes.adopt_orphans()
            self._began_at = clock.now()
            try:
                self._become_runner()
                yield
            finally:
                self._end_everything()
                setproctitle(title)
                _restore_environment(processes.MARK, former_mark)

    def _become_runner(self) -> None:
        """Take a new name, and start both aides under it."""
        pid = os.getpid()
        started = processes.started(pid)
        assert started is not None, "this process is alive"
        self.runner = Runner(
            id=uuid.uuid4().hex,
            host=os.uname().nodename,
            place=processes.place(),
            pid=pid,
            started=started,
        )
        os.environ[processes.MARK] = self.runner.id
        self._lease = Lease(self.options.lease, self.options.grace)
        self._fenced = False
        self._start_launcher()
        self._start_bookkeeper()
        self._show_title()

    def _start_launcher(self) -> None:
        self.launcher.start()
        self._selector.register(self.launcher.channel, selectors.EVENT_READ)

    def _start_bookkeeper(self) -> None:
        self.bookkeeper.start(self.runner, register=not self._lease.ever_renewed)
        self._selector.register(self.bookkeeper.channel, selectors.EVENT_READ)
        self._credits = 0
        for attempt in self.tries.values():
            attempt.handed_in = False
        self._brief_bookkeeper()

    def _brief_bookkeeper(self) -> None:
        """Tell a new bookkeeper what is held and which tasks there are."""
        if self._tasks is not None and self.bookkeeper.up:
            claims = list(self.tries)
            self.bookkeeper.channel.send("holding", claims=claims, tasks=self._tasks)
            if self.stopping is not None:
                self.bookkeeper.channel.send("drain")

    def _drop(self, aide: Aide, why: str) -> None:
        """Have done with an aide that died, hangs or is to be replaced."""
        if not aide.up:
            return  # it was dropped for what it said last
        logger.error("The %s %s; it is replaced", aide.name, why)
        self._selector.unregister(aide.channel)
        aide.kill()
        aide.backoff.failed()

    def _end_everything(self) -> None:
        """Leave no process behind, however the loop ended."""
        if self.bookkeeper.up and not self.tries:
            self.bookkeeper.channel.send("leave")
        self.launcher.close(_PING_TIMEOUT)
        self.bookkeeper.close(0.0 if self.tries else _LAST_RECORD)
        if not self._sweeper.finish(self.runner.id):
            logger.error("Processes of this runner are left that will not die")
        for child in self._children.values():
            child.close()

    # Waiting

    def _wait(self) -> None:
        """Wait for a child, an aide, a signal, or the next moment."""
        aides = [aide.channel for aide in (self.bookkeeper, self.launcher) if aide.up]
        channels = [*aides, *(child.channel for child in self._children.values())]
        for channel in channels:
            self._watch(channel)
        self._selector.select(max(0.0, self._next_moment() - clock.now()))
        for channel in channels:
            channel.flush()

    def _watch(self, channel: Channel) -> None:
        """Wait for what it says, and for room if something is waiting to be sent."""
        if channel.ended:
            return
        events = selectors.EVENT_READ
        if channel.waiting_to_send:
            events |= selectors.EVENT_WRITE
        if self._selector.get_key(channel).events != events:
            self._selector.modify(channel, events)

    def _next_moment(self) -> float:
        moments = [self._ping_at, self._bookkeeper_due(), self._launcher_due()]
        moments.append(self._duration_ends())
        for child in self._children.values():
            moments += [m for m in (child.deadline, child.kill_at) if m is not None]
        if self._children:
            moments += [self._lease.stop_at, self._lease.kill_at]
            moments += [] if self.stopping is None else [self.stopping]
        if any(child.watches_memory for child in self._children.values()):
            moments.append(self._memory_at)
        if self._sweeper.busy or self._clearing:
            moments.append(clock.now() + sweeper.EVERY)
        if self._waiting_tries():
            moments.append(self._starts.until)
        if self._leave_by is not None:
            moments.append(self._leave_by)
        # The next ping is always one of them; what was due before the last
        # look at the limits has been seen to.
        return min(moment for moment in moments if moment > self._enforced_at)

    def _duration_ends(self) -> float:
        if self.stopping is not None or self.options.duration <= 0:
            return _NEVER
        return self._began_at + self.options.duration

    # Stopping

    def _heed_signals(self) -> None:
        for number in self._wakeups.take():
            if number in _DRAIN:
                self._drain(signal.Signals(number).name)
            elif number == signal.SIGTSTP:
                self._stop_at(_NEVER, "SIGTSTP: claiming no more, waiting")
        self._sweeper.reap({self.bookkeeper.pid, self.launcher.pid})
        if clock.now() >= self._duration_ends():
            self._stop_at(_NEVER, f"--duration {self.options.duration:g} s is over")

    def _drain(self, signal_name: str) -> None:
        """Stop after the drain time; kill at once when that was asked for already."""
        if self.stopping is not None and self.stopping < _NEVER:
            self._stop_at(clock.now(), f"{signal_name} again: stopping at once")
            self._stop_children("the runner was stopped", kill_at=clock.now())
            return
        timeout = self.options.drain_timeout
        what_runs = f"what runs has {timeout:g} s to finish"
        self._stop_at(clock.now() + timeout, f"{signal_name}: {what_runs}")

    def _stop_at(self, moment: float, why: str) -> None:
        if self.stopping is not None and moment >= self.stopping:
            return
        logger.info("%s (%s running)", why, len(self._children))
        self.stopping = moment
        if self.bookkeeper.up:
            self.bookkeeper.channel.send("drain")

    def _fail(self, text: str) -> None:
        """Stop for good, with status 1: nothing that we could wait for will help."""
        if not self.failure:
            self.failure = text
            self._stop_at(clock.now() + self.options.drain_timeout, "Cannot go on")

    def _finished(self) -> bool:
        """Is nothing left to do, or nothing that we could still do?"""
        idle = self._dry and not self.tries
        if self.options.until_empty and idle and self.stopping is None:
            self._stop_at(_NEVER, "Nothing is due (--until-empty)")
        if self.stopping is None or self._children:
            return False
        if not self.tries:
            return True
        if self._leave_by is None:
            self._leave_by = clock.now() + _LAST_RECORD
        return clock.now() >= self._leave_by

    def _exit_status(self) -> int:
        if self.tries:
            jobs = [str(attempt.job) for attempt in self.tries.values()]
            self.failure = (
                f"Could not write the end of {len(jobs)} tries within "
                f"{_LAST_RECORD:g} s; they are left to rescue: {describe(jobs)}"
            )
            return EX_UNWRITTEN
        return EX_FAILED if self.failure else 0

    # The bookkeeper

    def _hear_bookkeeper(self) -> None:
        if not self.bookkeeper.up:
            if clock.now() >= self._bookkeeper_due() and not self._clearing:
                self._start_bookkeeper()
            return
        for message in self.bookkeeper.receive():
            self._heed_bookkeeper(message)
        if self.bookkeeper.channel.ended:
            self._drop(self.bookkeeper, "died")

    def _heed_bookkeeper(self, message: Message) -> None:
        match message:
            case {"kind": "turn", "recorded": recorded, "jobs": jobs, "dry": dry}:
                self._turn_taken(recorded, jobs, dry)
            case {"kind": "lease", "sent_at": float(sent_at)}:
                self._lease.renewed(sent_at)
                self.bookkeeper.backoff.succeeded()
            case {"kind": "refused", "claim": str(claim)}:
                self.bookkeeper.channel.send("let_go", claim=claim)
            case {"kind": "sweep", "runner": str(runner)}:
                if self._sweeper.add(runner, message["pid"], message["started"]):
                    logger.warning("Runner %s is dead: sweeping what it left", runner)
            case {"kind": "unavailable", "error": str(error)}:
                if not self._unavailable:
                    logger.error("The database is unavailable: %s", error)
                self._unavailable = True
            case {"kind": "available"}:
                logger.warning("The database is available again")
                self._unavailable = False
            case {"kind": "unusable", "text": str(text)}:
                self._fail(text)
            case {"kind": "fenced"}:
                self._is_fenced()

    def _turn_taken(
        self, recorded: list[str], jobs: list[dict[str, Any]], dry: bool
    ) -> None:
        for claim in recorded:
            self.tries.pop(claim, None)
        for fields in jobs:
            job = Job.from_message(fields)
            self.tries[job.claim] = Try(job)
            self._credits -= 1
        self._dry = dry

    def _is_fenced(self) -> None:
        """Others have taken over what we held: kill everything, then begin anew."""
        logger.error("Runner %s was declared dead by another", self.runner.id)
        self._fenced = True
        self._drop(self.bookkeeper, "has nothing left to write for")
        if self.launcher.up:
            self._launcher_is_gone("is killed with its tasks")
        self._clearing = True

    def _ask_for_jobs(self) -> None:
        """Give the bookkeeper credit for every slot that nothing is claimed for."""
        if self.stopping is not None or not self.bookkeeper.up or self._tasks is None:
            return
        free = self.options.workers - len(self.tries) - self._credits
        if free > 0:
            self.bookkeeper.channel.send("want", n=free)
            self._credits += free

    def _hand_in_outcomes(self) -> None:
        for claim, attempt in self.tries.items():
            if attempt.outcome is None:
                attempt.outcome = self._outcome_of(attempt)
            if attempt.outcome and not attempt.handed_in and self.bookkeeper.up:
                self.bookkeeper.ended(claim, attempt.outcome)
                attempt.handed_in = True

    def _outcome_of(self, attempt: Try) -> Outcome | None:
        """Sum up a try that is over; None while it is not."""
        draining = self.stopping is not None
        if attempt.child is None:
            reason = "the runner was stopped before it began"
            return Released(reason) if draining else None
        if not attempt.child.gone:
            return None
        outcome = attempt.child.outcome(draining=draining)
        self._learn_from(outcome, attempt.child)
        return outcome

    def _learn_from(self, outcome: Outcome, child: Child) -> None:
        """Start more slowly while starts fail; give up when the project cannot be."""
        if isinstance(outcome, Crashed) and outcome.while_starting:
            self._starts.failed()
        elif child.report and child.report.verdict == "unprepared":
            self._starts.failed()
            self._unprepared += 1
            if self._unprepared >= _UNPREPARED_IN_A_ROW:
                self._fail(f"The project cannot be set up:\n{child.report.error}")

    # The launcher and its children

    def _hear_launcher(self) -> None:
        if not self.launcher.up:
            may_start = not self._clearing and not self.failure
            if may_start and clock.now() >= self._launcher_due():
                self._start_launcher()
            return
        for message in self.launcher.receive():
            self._heed_launcher(message)
        if self.launcher.channel.ended:
            self._launcher_is_gone("died")

    def _heed_launcher(self, message: Message) -> None:
        match message:
            case {"kind": "ready", "found": dict(found)}:
                self.launcher.backoff.succeeded()
                if self._tasks is None:
                    self._tasks = found.get("names", {})
                    self._brief_bookkeeper()
            case {"kind": "failed", "traceback": str(text)}:
                if self._tasks is None:
                    self._fail(f"The project cannot be set up:\n{text}")
            case {"kind": "started", "number": int(number), "pid": int(pid)}:
                pidfd = (message.get("fds") or [None])[0]
                self._children[number].started(pid, pidfd)
            case {"kind": "exited", "number": int(number), "status": int(status)}:
                logger.debug(
                    "%s: exit status %s, %.2f s of CPU, peak of %s bytes",
                    self._children[number],
                    status,
                    message["cpu"],
                    message["peak"],
                )
                self._child_is_gone(number, status)
            case {"kind": "unstarted", "number": int(number), "error": str(error)}:
                logger.error("No process could be started: %s", error)
                self._child_is_gone(number, None)

    def _launcher_is_gone(self, why: str) -> None:
        """Its tasks are ours to kill: they go with it, as crashed."""
        while messages := self.launcher.receive():  # what it said before it died
            for message in messages:
                self._heed_launcher(message)
        self._drop(self.launcher, why)
        self._clearing = True

    def _start_claimed_jobs(self) -> None:
        if self.stopping is not None or not self.launcher.up or self._clearing:
            return
        if self._lease.trusted and clock.now() >= self._starts.until:
            for attempt in self._waiting_tries():
                self._start(attempt)

    def _waiting_tries(self) -> list[Try]:
        return [a for a in self.tries.values() if not a.child and not a.outcome]

    def _start(self, attempt: Try) -> None:
        self._numbers += 1
        number = self._numbers
        channel = Channel(self.launcher.start_child(number), _CHILD_LONGEST_LINE)
        attempt.child = Child(
            number, attempt.job, channel, clock.now(), self.options.start_timeout
        )
        self._children[number] = attempt.child
        self._selector.register(channel, selectors.EVENT_READ)
        self._show_title()

    def _hear_children(self) -> None:
        for child in self._children.values():
            self._hear(child)

    def _hear(self, child: Child) -> None:
        """Take in a bounded amount of what it says."""
        if child.channel.ended:
            return
        waiting_to_begin = child.begun is None
        for message in child.channel.receive(most=_CHILD_CHUNK):
            child.heed(message, clock.now())
        if waiting_to_begin and child.begun is not None:
            self._unprepared = 0
            self._starts.succeeded()
        if child.channel.ended:  # an alarm clock only: the exit status is believed
            self._selector.unregister(child.channel)

    def _child_is_gone(self, number: int, exitcode: int | None) -> None:
        child = self._children.pop(number)
        for _ in range(_CHILD_LONGEST_LINE // _CHILD_CHUNK + 1):
            self._hear(child)  # its last words
        child.ended(exitcode)
        if not child.channel.ended:
            self._selector.unregister(child.channel)
        child.close()
        self._show_title()

    # Limits

    def _enforce_limits(self) -> None:
        self._enforced_at = now = clock.now()
        for child in self._children.values():
            child.enforce_time(now)
        if now >= self._memory_at:
            self._memory_at = now + _MEMORY_EVERY
            for child in self._children.values():
                if child.watches_memory:
                    child.enforce_memory(now)
        if self.stopping is not None and now >= self.stopping:
            self._stop_children("the runner was stopped")
        if now >= self._lease.stop_at:
            why = f"the lease of {self._lease.length:g} s could not be renewed"
            self._stop_children(why, kill_at=self._lease.kill_at)
        self._enforce_answers(now)

    def _stop_children(self, why: str, kill_at: float | None = None) -> None:
        for child in self._children.values():
            child.stop(Released(why), clock.now(), kill_at)

    def _bookkeeper_due(self) -> float:
        """When may it be started again, or is it taken for frozen?"""
        if not self.bookkeeper.up:
            return self.bookkeeper.backoff.until
        patience = self._lease.length * _BOOKKEEPER_SILENCE
        if not self.bookkeeper.has_spoken:
            patience = max(patience, self.options.start_timeout)
        return self.bookkeeper.heard_at + patience

    def _launcher_due(self) -> float:
        """When may it be started again, or is it taken for frozen?"""
        if not self.launcher.up:
            return self.launcher.backoff.until
        if self.launcher.silent_since is None:
            return _NEVER
        patience = min(_PING_TIMEOUT, self._lease.length / 3)
        if not self.launcher.has_spoken:
            patience = max(patience, self.options.start_timeout)
        return self.launcher.silent_since + patience

    def _enforce_answers(self, now: float) -> None:
        if now >= self._ping_at:
            self._ping_at = now + min(_PING_EVERY, self._lease.length / 10)
            if self.launcher.up:
                self.launcher.ping()
        if self.bookkeeper.up and now >= self._bookkeeper_due():
            self._drop(self.bookkeeper, "does not answer")
        if self.launcher.up and now >= self._launcher_due():
            self._launcher_is_gone("does not answer")

    # What dead processes left

    def _sweep(self) -> None:
        for runner in self._sweeper.sweep_dead_runners():
            if self.bookkeeper.up:  # another bookkeeper will ask again
                self.bookkeeper.channel.send("swept", runner=runner)
        if self._clearing:
            self._clear()

    def _clear(self) -> None:
        """Kill what the launcher left; hand in its tasks when nothing is left."""
        if self._sweeper.leftovers(self.runner.id, spared={self.bookkeeper.pid}):
            return
        for number in list(self._children):
            self._child_is_gone(number, None)
        self._clearing = False
        if self._fenced:
            self.tries.clear()  # others have them: nothing of them is ours to write
            self._become_runner()

    def _show_title(self) -> None:
        running, workers = len(self._children), self.options.workers
        setproctitle(f"background_task: supervisor, {running} of {workers} running")


def describe(jobs: list[str]) -> str:
    """Return jobs as text for a message: at most twenty, then how many more."""
    shown = ", ".join(jobs[:20])
    return shown if len(jobs) <= 20 else f"{shown} and {len(jobs) - 20} more"


def _restore_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
