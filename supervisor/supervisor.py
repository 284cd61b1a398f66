"""The loop: claim, watch, enforce and record, until told to stop.

Called from the main thread of the `process_tasks` process. Nothing in it blocks, it
never touches the queue's database, and no code of a task runs in it.
"""

import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from setproctitle import getproctitle, setproctitle

from . import clock, processes, procfs, resources, sweeper
from .admission import Admission, warn_of_too_much
from .announcer import Announcer
from .bookkeeper import Bookkeeper
from .channel import Message
from .child import Child
from .condition import Condition
from .container import Container
from .discovery import Discovery
from .guard import Guard
from .job import Job
from .launcher import Launcher
from .lease import Lease
from .live import Live
from .logrelay import LogRelay
from .notify import Service
from .options import Options
from .outcome import Released
from .pools import Pools
from .pulse import Pulse
from .queue import Runner
from .slots import Slots
from .stopping import LAST_RECORD, Stopping
from .sweeper import Sweeper
from .tries import Tries, Try
from .wakeups import Wakeups
from .watch import Watch

logger = logging.getLogger("background_task.supervisor")

_DRAIN = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# Are there pauses between claims?
_PACE: dict[int, bool] = {signal.SIGUSR1: False, signal.SIGUSR2: True}
_TEMPLATE_MAY_GROW = 128 * 1024**2  # bytes
_PING_EVERY, _PING_TIMEOUT = 2.0, 10.0  # seconds
_LONGEST_WAIT = 1.0  # seconds for a slot, of what was claimed ahead


class Supervisor:
    """Owns what is held, and the processes that see to it."""

    def __init__(
        self,
        bookkeeper: Bookkeeper,
        launcher: Launcher,
        options: Options,
        container: Container | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        """`container` is what the limits of memory are read from.

        `pulse` tells others that the loop goes on.
        """
        self.bookkeeper = bookkeeper
        self.launcher = launcher
        self.options = options
        self._container = container or Container()
        self._pulse = pulse or Pulse()
        self.tries = Tries()  # claimed, and not yet recorded
        self._stopping = Stopping(options, self.tries, self._claim_no_more)
        self._discovery = Discovery(options.start_timeout)
        self._pools = Pools(options.workers, options.pools, options.ahead)
        self._pauses = False  # between claims
        self._clearing = False  # the launcher is gone; its tasks may not be
        self._fenced = False
        self._ping_at = self._enforced_at = 0.0
        self._title = ""
        self._live = Live()

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
                self._show_what_runs()
                self._hand_in_outcomes()
                self._announce()
                self._start_claimed_jobs()
                self._ask_for_jobs()
                self._show_condition()
            return self._exit_status()

    @property
    def failure(self) -> str:
        """Why is the exit status not 0?"""
        return self._stopping.failure

    @property
    def was_told_to_stop(self) -> bool:
        """Was it to stop what ran, and not only to claim no more?"""
        return self._stopping.draining

    # What there is while the loop runs

    @contextlib.contextmanager
    def _set_up(self) -> Iterator[None]:
        """Have wake-ups, a log that cannot block and both aides; end them all."""
        title = getproctitle()
        self._sweeper = Sweeper()
        self._guard = Guard(self._container)
        self._admission = Admission(self.options.memory_budget)
        resources.fill_standard_streams()
        procfs.check()
        with (
            processes.mark_restored(),
            resources.files_for(self.options.workers),
            Wakeups(_heeded()) as self._wakeups,
            LogRelay("background_task"),
            Service() as self._service,
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
            self._stopping.begin()
            self._discovery.begin()
            try:
                self._pulse.begin(self._watch)
                self._start_aides()
                yield
            finally:
                self._end_everything()
                processes.adopt_orphans(False)
                setproctitle(title)

    def _new_announcer(self) -> Announcer | None:
        target = self.launcher.project.announce
        limits = self.options.announcer
        return Announcer(self._slots, target, limits) if target else None

    def _become_runner(self) -> None:
        """Take a new name, which the processes that are started from now on carry."""
        self.runner = Runner.of_this_process()
        os.environ[processes.MARK] = self.runner.id
        self._lease = Lease(self.options.lease, self.options.grace)
        self._fenced = False

    def _start_aides(self) -> None:
        self._start_launcher()
        self._start_bookkeeper()
        self._show_title()

    def _start_launcher(self) -> None:
        self.launcher.begin(self.launcher.start, self._watch)

    def _start_bookkeeper(self) -> None:
        register = not self._lease.ever_renewed
        start = partial(self.bookkeeper.start, self.runner, register=register)
        if self.bookkeeper.begin(start, self._watch):
            self._pools.took_back_credit()
            self.tries.take_back()
            self._live.told_nobody()
            self._brief_bookkeeper()

    def _brief_bookkeeper(self) -> None:
        """Tell a new bookkeeper what is held and which tasks there are."""
        if self._discovery.tasks is not None and self.bookkeeper.up:
            self.bookkeeper.channel.send(
                "holding",
                claims=self.tries.claims,
                tasks=self._discovery.tasks,
                announce=self.announcer is not None,
                pools=self._pools.names,
            )
            self.bookkeeper.channel.send("pace", pauses=self._pauses)
            self._admission.tell_again()
            if self._stopping.begun:
                self.bookkeeper.channel.send("drain")

    def _end_everything(self) -> None:
        """Leave no process behind, however the loop ended."""
        if self.bookkeeper.up and not self.tries:
            self.bookkeeper.channel.send("leave")
        self._pulse.end()
        launcher_left = self.launcher.close(_PING_TIMEOUT) and not self._clearing
        self.bookkeeper.close(0.0 if self.tries else LAST_RECORD)
        self._sweeper.finish(self.runner.id, launcher_left)

    # Waiting

    def _next_moment(self) -> float:
        moments = [self._ping_at, self._bookkeeper_due(), self._launcher_due()]
        moments += [self._discovery.due, self._pulse.tick_at]
        moments += self._slots.moments()
        moments += self._stopping.moments()
        if self.announcer and (start := self.announcer.next_start()) is not None:
            moments.append(start)
        if self.tries.running():
            moments += [self._lease.stop_at, self._lease.kill_at]
            if (look_at := self._guard.look_at) is not None:
                moments.append(look_at)
        if self.bookkeeper.up:
            moments += self._live.next_moment()
        if self._sweeper.busy or self._clearing:
            moments.append(clock.now() + sweeper.EVERY)
        if (since := self.tries.waiting_since()) is not None:
            moments += [self._slots.backoff.until, since + _LONGEST_WAIT]
        if self._service.beat_at is not None:
            moments.append(self._service.beat_at)
        # The next ping is always one of them; what was due before the last
        # look at the limits has been seen to.
        return min(moment for moment in moments if moment > self._enforced_at)

    # Stopping

    def _heed_signals(self) -> None:
        notes = self._wakeups.take()
        if signal.SIGCHLD in notes:
            with self._reserve:
                ours = {self.bookkeeper.pid, self.launcher.pid}
                self._sweeper.reap(ours | self._pulse.pids())
        for number in notes:
            if number in _DRAIN:
                self._stopping.drain(signal.Signals(number).name)
            elif number == signal.SIGTSTP:
                self._stopping.claim_no_more("SIGTSTP: claiming no more, waiting")
            elif number in _PACE:
                self._set_pace(number)
        self._stopping.heed_duration()

    def _set_pace(self, number: int) -> None:
        self._pauses = _PACE[number]
        pause = "pausing" if self._pauses else "no pause"
        logger.info("%s: %s between claims", signal.Signals(number).name, pause)
        if self.bookkeeper.up:
            self.bookkeeper.channel.send("pace", pauses=self._pauses)

    def _claim_no_more(self) -> None:
        self._slots.dismiss_idle(for_good=True)
        if self.bookkeeper.up:
            self.bookkeeper.channel.send("drain")

    def _finished(self) -> bool:
        """Is nothing left to do, or nothing that we could still do?"""
        if self.options.until_empty and not self._stopping.begun:
            self._stop_if_empty()
        announcing = self.announcer is not None and self.announcer.busy
        return self._stopping.is_over(
            busy=announcing or self._slots.leaving, children=bool(self._slots)
        )

    def _stop_if_empty(self) -> None:
        if not self.bookkeeper.dry or self.tries:
            return
        self._stopping.claim_no_more("Nothing is due (--until-empty)")
        if self.bookkeeper.paused:
            paused = self.bookkeeper.paused
            logger.warning("What is paused was left alone: %s", paused)

    def _exit_status(self) -> int:
        if self.announcer and (tasks := self.announcer.unannounced()):
            logger.warning("The end of these tasks was not announced: %s", tasks)
        return self._stopping.exit_status()

    # The bookkeeper

    def _hear_bookkeeper(self) -> None:
        if not self.bookkeeper.up:
            if clock.now() >= self._bookkeeper_due() and not self._clearing:
                self._start_bookkeeper()
            return
        for message in self.bookkeeper.receive():
            self._heed_bookkeeper(message)
        if self.bookkeeper.channel.ended:
            self.bookkeeper.drop("died", self._watch)

    def _heed_bookkeeper(self, message: Message) -> None:
        self._pulse.heed(message)
        match message:
            case {"kind": "turn", "recorded": recorded, "jobs": jobs}:
                self._turn_taken(recorded, jobs)
                if self.announcer:
                    self.announcer.add(message["news"])
            case {"kind": "lease", "sent_at": float(sent_at)}:
                self._lease.renewed(sent_at)
            case {"kind": "refused", "claim": str(claim)}:
                self.tries.let_go(claim)
                self.bookkeeper.channel.send("let_go", claim=claim)
            case {"kind": "sweep", "runner": str(runner)}:
                if self._sweeper.add(runner, message["pid"], message["started"]):
                    logger.warning("Runner %s is dead: sweeping what it left", runner)
            case {"kind": "unusable", "text": str(text)}:
                self._stopping.fail(text)
            case {"kind": "fenced"}:
                self._is_fenced()
            case {"kind": "orders"}:
                self._obey(message)

    def _obey(self, orders: Message) -> None:
        """Do what people have asked for; to be asked twice changes nothing."""
        if orders["drain_by"] is not None and not self.was_told_to_stop:
            self._stopping.drain(f"Asked to drain by {orders['drain_by']}")
        for claim, by in orders["stop"].items():
            self.tries.cancel(claim, by)
        self._live.ask(orders["output"], orders["stack"])

    def _turn_taken(self, recorded: list[str], jobs: list[dict[str, Any]]) -> None:
        self._pulse.recorded(self.tries.recorded(recorded))
        for job in map(Job.from_message, jobs):
            self.tries.take(job)
            self._pools.of(job).credits -= 1

    def _is_fenced(self) -> None:
        """Others have taken over what we held: kill everything, then begin anew."""
        logger.error("Runner %s was declared dead by another", self.runner.id)
        self._fenced = True
        self.bookkeeper.drop("has nothing left to write for", self._watch)
        if self.launcher.up:
            self._launcher_is_gone("is killed with its tasks")
        self._clearing = True

    def _ask_for_jobs(self) -> None:
        """Give the bookkeeper credit for every slot that nothing is claimed for."""
        if self._stopping.begun or not self.bookkeeper.up:
            return
        if self._discovery.tasks is None:
            return
        if self.announcer and self.announcer.behind:
            return  # the receivers of signals have to catch up
        for pool, n in self._pools.lacking(self.tries.jobs()):
            self.bookkeeper.want(pool, n, at_once=not self.tries.waiting())

    def _hand_in_outcomes(self) -> None:
        for child in self.tries.sum_up(draining=self._stopping.begun):
            self._learn_from(child)
        self._tell_what_fits()
        if self.tries.give_back(clock.now() - _LONGEST_WAIT):
            for pool, n in self._pools.reset_windows(self.tries.jobs()):
                self.bookkeeper.take_back(pool, n)
        if self.bookkeeper.up:
            at_once = not self.tries.waiting()
            for claim, ended in self.tries.hand_in():
                self.bookkeeper.ended(claim, ended, at_once=at_once)

    def _show_what_runs(self) -> None:
        """Have it written what runs and how far it is, for those who look."""
        if self.bookkeeper.up:
            told = self._live.step(
                self.tries, moved=self._slots.moved(), draining=self._stopping.begun
            )
            for message in told:
                self.bookkeeper.channel.send(message.pop("kind"), **message)

    def _tell_what_fits(self) -> None:
        """Have nothing claimed that there is no memory for."""
        if self._discovery.tasks is None or not self.bookkeeper.up:
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
            self._pools.of(child.job).window.took(child.took)
        if child.begun is not None or self._stopping.begun:
            return
        if not self._slots.failed(child):
            return
        if child.report and child.report.verdict == "unprepared":
            self._stopping.fail(self._discovery.was_not_prepared(child.report.error))

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
            self._stopping.fail(
                self._discovery.launcher_died(ready=self.launcher.ready)
            )
            self._launcher_is_gone("died")

    def _heed_launcher(self, message: Message) -> None:
        match message:
            case {"kind": "ready", "found": dict(found)}:
                self.launcher.backoff.succeeded()
                doubts = [*message["warnings"], *found.get("warnings", [])]
                self._discovery.warn(doubts)
                if self._discovery.tasks is None:
                    self._discovery.found(found.get("names", {}))
                    if not found.get("ahead", True):
                        self._pools.shut_windows()
                    if not found.get("listens"):
                        self.announcer = None
                    self._brief_bookkeeper()
            case {"kind": "failed", "traceback": str(text)}:
                self._stopping.fail(self._discovery.failed(text))
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
        self.launcher.drop(why, self._watch)
        self._clearing = True

    def _start_claimed_jobs(self) -> None:
        if self._stopping.begun or not self.launcher.ready or self._clearing:
            return
        if not self._lease.trusted or clock.now() < self._slots.backoff.until:
            return
        running, refused = self.tries.running(), False
        for attempt in self._pools.startable(self.tries.waiting(), running):
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
            self._discovery.was_prepared()

    # Limits

    def _enforce_limits(self) -> None:
        self._enforced_at = now = clock.now()
        self._slots.enforce_limits(now)
        for child in self._slots.never_came(now):
            self._unstarted(child, "the launcher has lost it")
        self._guard.step(now, self.tries.running(), self.launcher.template_pid)
        self._stopping.enforce(now)
        if now >= self._lease.stop_at:
            self._stop_for_want_of_a_lease()
        self._enforce_answers(now)

    def _stop_for_want_of_a_lease(self) -> None:
        why = f"the lease of {self._lease.length:g} s could not be renewed"
        if told := [c for c in self.tries.running() if c.stopping is None]:
            logger.warning("Stopping %s: %s", ", ".join(map(str, told)), why)
        self.tries.stop(why, kill_at=self._lease.kill_at)

    def _bookkeeper_due(self) -> float:
        patience = self._lease.patience(in_outage=self.bookkeeper.unavailable)
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
            self.bookkeeper.drop("does not answer", self._watch, pause=False)
        if self.launcher.up and now >= self._launcher_due():
            self._launcher_is_gone("does not answer")
        self._stopping.fail(self._discovery.too_late())

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
        spared = bookkeepers | self._pulse.pids()
        if self._sweeper.clear(self.runner.id, spared=spared):
            return
        self._slots.all_gone()
        self._clearing = False
        if self._fenced:
            self.tries.clear()  # others have them: nothing of them is ours to write
            if not self._stopping.begun:
                self._become_runner()
                self._start_aides()

    # What others see of it

    def _show_condition(self) -> None:
        """Tell those who look at the runner how it is.

        The service manager is told that it stops only when it does so within a time of
        its own: from then on the manager's time for it runs, and `--duration` and its
        like wait for what runs however long that may.
        """
        condition = self._condition()
        self._show_title()
        self._service.tell(
            ready=condition.works,
            stopping=self._stopping.draining,
            status=condition.status,
        )
        self._pulse.step(self.runner, condition)

    def _condition(self) -> Condition:
        children = self.tries.running()
        return Condition(
            failure=self.failure,
            stopping=self._stopping.begun,
            set_up=self._discovery.tasks is not None,
            lease=self._lease.length,
            lease_age=self._lease.age,
            unavailable=self.bookkeeper.unavailable,
            whole=self.launcher.ready and self.bookkeeper.up and not self._clearing,
            paused=self.bookkeeper.paused,
            workers=self.options.workers,
            running=Counter(child.job.queue or "" for child in children),
            held=len(self.tries),
            queues=self._discovery.queues,
        )

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
