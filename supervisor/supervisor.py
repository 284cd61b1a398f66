"""The loop: claim, watch, enforce and record, until told to stop.

Called from the main thread of the `process_tasks` process. Nothing in it blocks, it
never touches the queue's database, and no code of a task runs in it.
"""

import contextlib
import logging
import math
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from setproctitle import getproctitle, setproctitle

from . import clock, lease, processes, resources, sweeper
from .admission import Admission, warn_of_too_much
from .aide import Aide
from .announcer import Announcer
from .bookkeeper import Bookkeeper
from .channel import Message
from .child import Child
from .container import Container
from .guard import Guard
from .job import Job
from .launcher import Launcher
from .lease import Lease
from .logrelay import LogRelay
from .options import Options
from .outcome import Released
from .queue import Runner
from .slots import Slots
from .sweeper import Sweeper
from .tries import Tries, Try
from .wakeups import Wakeups
from .watch import Watch
from .window import Window

logger = logging.getLogger("background_task.supervisor")

EX_FAILED, EX_UNWRITTEN = 1, 75

_DRAIN = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# Are there pauses between claims?
_PACE: dict[int, bool] = {signal.SIGUSR1: False, signal.SIGUSR2: True}
_NEVER = math.inf
_LAST_RECORD = 5.0  # seconds for what is still to be written at the end
_TEMPLATE_MAY_GROW = 128 * 1024**2  # bytes
_PING_EVERY, _PING_TIMEOUT = 2.0, 10.0
_PROGRESS_EVERY = 1.0
_PROVEN = 30.0  # seconds of life after which a bookkeeper's death is not its last's
_UNPREPARED_IN_A_ROW = 3
_LONGEST_WAIT = 1.0  # seconds for a slot, of what was claimed ahead


class Supervisor:
    """Owns what is held, and the moment at which it is to stop."""

    def __init__(
        self,
        bookkeeper: Bookkeeper,
        launcher: Launcher,
        options: Options,
        container: Container | None = None,
    ) -> None:
        """`container` is what the limits of memory are read from."""
        self.bookkeeper = bookkeeper
        self.launcher = launcher
        self.options = options
        self._container = container or Container()
        # None: go on. Otherwise claim no more, and stop what runs at this moment.
        self.stopping: float | None = None
        self.tries = Tries()  # claimed, and not yet recorded
        self._tasks: dict[str, Any] | None = None  # what the project can run
        self._window = Window(options.workers, options.ahead)
        self._credits = 0  # jobs that the bookkeeper may still claim for us
        self._pauses = False  # between claims
        self._dry = False  # the last look found nothing due
        self.failure = ""  # why the exit status is not 0
        self._clearing = False  # the launcher is gone; its tasks may not be
        self._fenced = False
        self._unavailable = False
        self._unprepared = 0  # in a row
        self._died_unready = 0  # launchers, in a row
        self._ping_at = self._enforced_at = self._progress_at = 0.0
        self._title = ""
        self._moved = False  # has a task told of progress, and it is not passed on?
        self._told: set[str] = set()
        self._leave_by: float | None = None

    def run(self) -> int:
        """Claim, watch and record until told to stop and nothing is left running.

        Returns the exit status: 0; 1 when it cannot work at all; 75 when something
        could not be written. `failure` says why it is not 0. Raises OptionError for
        more workers than there can be open files for.
        """
        with self._set_up():
            while not self._finished():
                self._watch.wait(self._next_moment())
                self._heed_signals()
                self._hear_bookkeeper()
                self._hear_launcher()
                self._renew_template()
                self._hear_children()
                with self._reserve:
                    self._enforce_limits()
                    self._sweep()
                self._tell_progress()
                self._hand_in_outcomes()
                self._announce()
                self._start_claimed_jobs()
                self._ask_for_jobs()
            return self._exit_status()

    # What there is while the loop runs

    @contextlib.contextmanager
    def _set_up(self) -> Iterator[None]:
        """Have wake-ups, a log that cannot block and both aides; end them all."""
        title, former_mark = getproctitle(), os.environ.get(processes.MARK)
        self._sweeper = Sweeper()
        self._guard = Guard(self._container)
        self._admission = Admission(self.options.memory_budget)
        resources.fill_standard_streams()
        with (
            resources.files_for(self.options.workers),
            Wakeups(_heeded()) as self._wakeups,
            LogRelay("background_task"),
            Watch() as self._watch,
            Slots(
                self.launcher,
                self._watch,
                self.options.start_timeout,
                self.options.tasks_per_process,
                self._container,
            ) as self._slots,
            contextlib.closing(resources.Reserve()) as self._reserve,
        ):
            self._watch.listen(self._wakeups)
            self.announcer = self._new_announcer()
            warn_of_too_much(self.options.workers, self.options.memory, self._container)
            self._become_runner()
            processes.adopt_orphans(True)
            self._began_at = clock.now()
            try:
                self._start_aides()
                yield
            finally:
                self._end_everything()
                processes.adopt_orphans(False)
                setproctitle(title)
                _restore_environment(processes.MARK, former_mark)

    def _new_announcer(self) -> Announcer | None:
        target = self.launcher.project.announce
        limits = self.options.announcer
        return Announcer(self._slots, target, limits) if target else None

    def _become_runner(self) -> None:
        """Take a new name, which the processes that are started from now on carry."""
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

    def _start_aides(self) -> None:
        self._start_launcher()
        self._start_bookkeeper()
        self._show_title()

    def _start_launcher(self) -> None:
        self._have_started(self.launcher, self.launcher.start)

    def _start_bookkeeper(self) -> None:
        register = not self._lease.ever_renewed
        start = partial(self.bookkeeper.start, self.runner, register=register)
        if self._have_started(self.bookkeeper, start):
            self._credits = 0
            self.tries.take_back()
            self._brief_bookkeeper()

    def _have_started(self, aide: Aide, start: Callable[[], None]) -> bool:
        """Start an aide; False: it can't be had now, and is tried again later."""
        try:
            start()
            self._watch.add(aide.channel)
        except OSError as error:
            aide.kill()
            aide.backoff.failed()
            why = resources.explained(error)
            logger.error("The %s could not be started: %s", aide.name, why)
        return aide.up

    def _brief_bookkeeper(self) -> None:
        """Tell a new bookkeeper what is held and which tasks there are."""
        if self._tasks is not None and self.bookkeeper.up:
            self.bookkeeper.channel.send(
                "holding",
                claims=self.tries.claims,
                tasks=self._tasks,
                announce=self.announcer is not None,
            )
            self.bookkeeper.channel.send("pace", pauses=self._pauses)
            self._admission.tell_again()
            if self.stopping is not None:
                self.bookkeeper.channel.send("drain")

    def _drop(self, aide: Aide, why: str, *, pause: bool = True) -> None:
        """Have done with an aide that died, hangs or is to be replaced.

        Without a pause where finding out has taken its time already.
        """
        if not aide.up:
            return  # it was dropped for what it said last
        self._watch.forget(aide.channel)
        aide.kill()
        wait = aide.backoff.failed() if pause else 0.0
        when = f" in {wait:g} s" if wait else ""
        logger.error("The %s %s; it is replaced%s", aide.name, why, when)

    def _end_everything(self) -> None:
        """Leave no process behind, however the loop ended."""
        if self.bookkeeper.up and not self.tries:
            self.bookkeeper.channel.send("leave")
        launcher_left = self.launcher.close(_PING_TIMEOUT) and not self._clearing
        self.bookkeeper.close(0.0 if self.tries else _LAST_RECORD)
        self._sweeper.finish(self.runner.id, launcher_left)

    # Waiting

    def _next_moment(self) -> float:
        moments = [self._ping_at, self._bookkeeper_due(), self._launcher_due()]
        moments += [self._duration_ends(), self._discovery_due()]
        moments += self._slots.moments()
        if self.announcer and (start := self.announcer.next_start()) is not None:
            moments.append(start)
        if self.tries.running():
            moments += [self._lease.stop_at, self._lease.kill_at]
            if (look_at := self._guard.look_at) is not None:
                moments.append(look_at)
            moments += [] if self.stopping is None else [self.stopping]
        if self._moved:
            moments.append(self._progress_at)
        if self._sweeper.busy or self._clearing:
            moments.append(clock.now() + sweeper.EVERY)
        if (since := self.tries.waiting_since()) is not None:
            moments += [self._slots.backoff.until, since + _LONGEST_WAIT]
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
        notes = self._wakeups.take()
        if signal.SIGCHLD in notes:
            with self._reserve:
                self._sweeper.reap({self.bookkeeper.pid, self.launcher.pid})
        for number in notes:
            if number in _DRAIN:
                self._drain(signal.Signals(number).name)
            elif number == signal.SIGTSTP:
                self._stop_at(_NEVER, "SIGTSTP: claiming no more, waiting")
            elif number in _PACE:
                self._set_pace(number)
        if clock.now() >= self._duration_ends():
            self._stop_at(_NEVER, f"--duration {self.options.duration:g} s is over")

    def _set_pace(self, number: int) -> None:
        self._pauses = _PACE[number]
        pause = "pausing" if self._pauses else "no pause"
        logger.info("%s: %s between claims", signal.Signals(number).name, pause)
        if self.bookkeeper.up:
            self.bookkeeper.channel.send("pace", pauses=self._pauses)

    def _drain(self, signal_name: str) -> None:
        """Stop after the drain time; kill at once when that was asked for already."""
        if self.stopping is not None and self.stopping < _NEVER:
            self._stop_at(clock.now(), f"{signal_name} again: stopping at once")
            self.tries.stop("the runner was stopped", kill_at=clock.now())
            return
        timeout = self.options.drain_timeout
        what_runs = f"what runs has {timeout:g} s to finish; again: stop at once"
        self._stop_at(clock.now() + timeout, f"{signal_name}: {what_runs}")

    def _stop_at(self, moment: float, why: str) -> None:
        if self.stopping is not None and moment >= self.stopping:
            return
        running = len(self.tries.running())
        # Who waits for it sees it whatever is logged: it may take a while.
        level = logging.WARNING if running else logging.INFO
        logger.log(level, "%s (%s running)", why, running)
        self.stopping = moment
        self._slots.dismiss_idle(for_good=True)
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
        if self.stopping is None or not self.tries.left_to_themselves():
            return False
        busy = self.announcer is not None and self.announcer.busy
        if not self.tries and not busy and not self._slots.leaving:
            return True
        if self._slots and self.stopping == _NEVER:
            return False  # receivers of signals have limits of their own
        if self._leave_by is None:
            self._leave_by = clock.now() + _LAST_RECORD
        return clock.now() >= self._leave_by

    def _exit_status(self) -> int:
        if self.announcer and (tasks := self.announcer.unannounced()):
            logger.warning("The end of these tasks was not announced: %s", tasks)
        if self.tries:
            self.failure = (
                f"Could not write the end of {len(self.tries)} tries within "
                f"{_LAST_RECORD:g} s; they are left to rescue: {self.tries}"
            )
            return EX_UNWRITTEN
        logger.info("Stopped; every end is recorded")
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
                if self.announcer:
                    self.announcer.add(message["news"])
            case {"kind": "lease", "sent_at": float(sent_at)}:
                self._lease_renewed(sent_at)
            case {"kind": "refused", "claim": str(claim)}:
                self.tries.let_go(claim)
                self.bookkeeper.channel.send("let_go", claim=claim)
            case {"kind": "sweep", "runner": str(runner)}:
                if self._sweeper.add(runner, message["pid"], message["started"]):
                    logger.warning("Runner %s is dead: sweeping what it left", runner)
            case {"kind": "unavailable", "error": str(error)}:
                if not self._unavailable:
                    logger.error("The queue is unavailable: %s", error)
                self._unavailable = True
            case {"kind": "unusable", "text": str(text)}:
                self._fail(text)
            case {"kind": "fenced"}:
                self._is_fenced()

    def _lease_renewed(self, sent_at: float) -> None:
        self._lease.renewed(sent_at)
        if clock.now() >= self.bookkeeper.started_at + _PROVEN:
            self.bookkeeper.backoff.succeeded()
        if self._unavailable:
            logger.warning("The queue is available again")
        self._unavailable = False

    def _turn_taken(
        self, recorded: list[str], jobs: list[dict[str, Any]], dry: bool
    ) -> None:
        self.tries.recorded(recorded)
        self.tries.take(Job.from_message(fields) for fields in jobs)
        self._credits -= len(jobs)
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
        if self.announcer and self.announcer.behind:
            return  # the receivers of signals have to catch up
        room = self.options.workers + self._window.size
        free = room - self.tries.busy - self._credits
        if free > 0:
            self.bookkeeper.want(free, at_once=not self.tries.waiting())
            self._credits += free

    def _hand_in_outcomes(self) -> None:
        for child in self.tries.sum_up(draining=self.stopping is not None):
            self._learn_from(child)
        self._tell_what_fits()
        if self.tries.give_back(clock.now() - _LONGEST_WAIT):
            self._window.reset()
        if self.bookkeeper.up:
            at_once = not self.tries.waiting()
            for claim, ended in self.tries.hand_in():
                self.bookkeeper.ended(claim, ended, at_once=at_once)

    def _tell_progress(self) -> None:
        """Have it written how far tries are, once a second at most."""
        self._moved = self._slots.moved() or self._moved
        if not self._moved or clock.now() < self._progress_at:
            return
        if not self.bookkeeper.up:
            return
        untold = self.tries.untold_progress()
        self._moved = False
        if untold:
            self._progress_at = clock.now() + _PROGRESS_EVERY
            tries = {c: [p.done, p.total, p.message] for c, p in untold.items()}
            self.bookkeeper.channel.send("progress", tries=tries)
            self.tries.progress_told(untold)

    def _tell_what_fits(self) -> None:
        """Have nothing claimed that there is no memory for."""
        budget = self.options.memory_budget
        if budget is None or not self.bookkeeper.up or self._tasks is None:
            return
        if news := self._admission.news(self.tries.running()):
            avoided, only = news
            self.bookkeeper.channel.send("admit", avoided=avoided, only=only)

    def _announce(self) -> None:
        if self.announcer:
            self.announcer.step(may_start=self.launcher.ready and not self._clearing)

    def _learn_from(self, child: Child) -> None:
        """Start more slowly while starts fail; give up when the project cannot be.

        Those that were started together fail together: that is one failure.
        """
        if child.took is not None:
            self._window.took(child.took)
        if child.begun is not None or self.stopping is not None:
            return
        if not self._slots.failed(child):
            return
        if child.report and child.report.verdict == "unprepared":
            self._unprepared += 1
            if self._unprepared >= _UNPREPARED_IN_A_ROW:
                self._fail(f"The project cannot be set up:\n{child.report.error}")

    def _unstarted(self, child: Child, why: str) -> None:
        child.stopping = self._not_started(child, why)
        self._slots.gone(child.number, None)

    def _not_started(self, child: Child | None, why: str) -> Released:
        """No process could be had: say so once for all that were asked for together."""
        if self._slots.failed(child):
            logger.error("No process could be started: %s", why)
        return Released(f"no process could be started: {why}")

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
            self._count_dead_set_ups()
            self._launcher_is_gone("died")

    def _count_dead_set_ups(self) -> None:
        """Give up on a project whose set-up kills the process, again and again."""
        self._died_unready = 0 if self.launcher.ready else self._died_unready + 1
        if self._died_unready >= _UNPREPARED_IN_A_ROW:
            text = "The process that sets the project up died without a word."
            self._fail(f"The project cannot be set up:\n{text}")

    def _heed_launcher(self, message: Message) -> None:
        match message:
            case {"kind": "ready", "found": dict(found)}:
                self.launcher.backoff.succeeded()
                self._warn([*message["warnings"], *found.get("warnings", [])])
                if self._tasks is None:
                    self._tasks = found.get("names", {})
                    if not found.get("ahead", True):
                        self._window = Window(self.options.workers, 0)
                    if not found.get("listens"):
                        self.announcer = None
                    self._brief_bookkeeper()
            case {"kind": "failed", "traceback": str(text)}:
                self._fail(f"The project cannot be set up:\n{text}")
            case {"kind": "started", "number": int(number), "pid": int(pid)}:
                pidfd = (message.get("fds") or [None])[0]
                self._slots[number].started(pid, pidfd)
            case {"kind": "exited", "number": int(number), "status": int(status)}:
                logger.debug(
                    "%s: exit status %s, %.2f s of CPU, peak of %s bytes",
                    self._slots[number],
                    status,
                    message["cpu"],
                    message["peak"],
                )
                self._slots.gone(
                    number, status, cpu=message["cpu"], peak=message["peak"]
                )
            case {"kind": "survivors", "processes": list(survivors)}:
                sweeper.tell(survivors)
            case {"kind": "unstarted", "number": int(number), "error": str(error)}:
                self._unstarted(self._slots[number], error)

    def _warn(self, warnings: list[str]) -> None:
        """Tell each doubt about the project once."""
        for text in warnings:
            if text not in self._told:
                logger.warning("%s", text)
                self._told.add(text)

    def _renew_template(self) -> None:
        """Replace a template whose heap has grown, when no child of it runs."""
        grown_by = self.launcher.grown_by
        if grown_by <= _TEMPLATE_MAY_GROW or not self.launcher.ready:
            return
        if self._slots and self._slots.all_idle:
            self._slots.dismiss_idle()
        if not self._slots:
            logger.info("The template has grown by %s MiB: renewing it", grown_by >> 20)
            self._watch.forget(self.launcher.channel)
            self.launcher.kill()
            self._clearing = True  # what its imports have started goes with it

    def _launcher_is_gone(self, why: str) -> None:
        """Its tasks are ours to kill: they go with it, as crashed."""
        while messages := self.launcher.receive():  # what it said before it died
            for message in messages:
                self._heed_launcher(message)
        self._drop(self.launcher, why)
        self._clearing = True

    def _start_claimed_jobs(self) -> None:
        if self.stopping is not None or not self.launcher.ready or self._clearing:
            return
        if not self._lease.trusted or clock.now() < self._slots.backoff.until:
            return
        running, refused = self.tries.running(), False
        for attempt in self.tries.waiting()[: self.options.workers - len(running)]:
            attempt.outcome = self._admission.refusal(attempt.job, running)
            refused = refused or attempt.outcome is not None
            if attempt.outcome is None and not self._start(attempt):
                break
            if attempt.child is not None:
                running.append(attempt.child)
        if refused:
            self._hand_in_outcomes()  # what it is about may change by then

    def _start(self, attempt: Try) -> bool:
        """Have a process for a try; return False if none can be had."""
        try:
            attempt.child = self._slots.start(attempt.job)
        except OSError as error:
            attempt.outcome = self._not_started(None, resources.explained(error))
        return attempt.outcome is None

    def _hear_children(self) -> None:
        if self._slots.hear():
            self._unprepared = 0
        self._show_title()

    # Limits

    def _enforce_limits(self) -> None:
        self._enforced_at = now = clock.now()
        self._slots.enforce_limits(now)
        for child in self._slots.never_came(now):
            self._unstarted(child, "the launcher has lost it")
        self._guard.step(now, self.tries.running(), self.launcher.template_pid)
        if self.stopping is not None and now >= self.stopping:
            self.tries.stop("the runner was stopped")
        if now >= self._lease.stop_at:
            why = f"the lease of {self._lease.length:g} s could not be renewed"
            self.tries.stop(why, kill_at=self._lease.kill_at)
        self._enforce_answers(now)

    def _bookkeeper_due(self) -> float:
        patience = self._lease.length * lease.SILENCE
        return self.bookkeeper.due(patience, self.options.start_timeout)

    def _launcher_due(self) -> float:
        patience = min(_PING_TIMEOUT, self._lease.length / 3)
        return self.launcher.due(patience, self.options.start_timeout)

    def _enforce_answers(self, now: float) -> None:
        if now >= self._ping_at:
            self._ping_at = now + min(_PING_EVERY, self._lease.length / 10)
            if self.launcher.up:
                self.launcher.ping()
        if self.bookkeeper.up and now >= self._bookkeeper_due():
            self._drop(self.bookkeeper, "does not answer", pause=False)
        if self.launcher.up and now >= self._launcher_due():
            self._launcher_is_gone("does not answer")
        if now >= self._discovery_due():
            timeout = self.options.start_timeout
            self._fail(
                f"The project's tasks were not discovered within {timeout:g} s "
                "(BACKGROUND_TASK_START_TIMEOUT): an import of it hangs, or is slow"
            )

    def _discovery_due(self) -> float:
        """When must we know what the project can run?"""
        if self._tasks is not None or self.failure:
            return _NEVER
        return self._began_at + self.options.start_timeout

    # What dead processes left

    def _sweep(self) -> None:
        for runner in self._sweeper.sweep_dead_runners():
            if self.bookkeeper.up:  # another bookkeeper will ask again
                self.bookkeeper.channel.send("swept", runner=runner)
        if self._clearing:
            self._clear()

    def _clear(self) -> None:
        """Kill what the launcher left; hand in its tasks when nothing is left."""
        bookkeepers = {self.bookkeeper.pid} | self.bookkeeper.bury()
        if self._sweeper.clear(self.runner.id, spared=bookkeepers):
            return
        self._slots.all_gone()
        self._clearing = False
        if self._fenced:
            self.tries.clear()  # others have them: nothing of them is ours to write
            if self.stopping is None:
                self._become_runner()
                self._start_aides()

    def _show_title(self) -> None:
        running, workers = len(self.tries.running()), self.options.workers
        title = f"{processes.TITLE} {running}/{workers} supervisor"
        if title != self._title:
            setproctitle(title)
            self._title = title


def _heeded() -> list[signal.Signals]:
    """The signals that the loop hears; not SIGHUP under nohup, which ignores it."""
    heeded = [*_DRAIN, signal.SIGTSTP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        heeded.remove(signal.SIGHUP)
    return heeded


def _restore_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
