"""What does the supervisor know of one live process, and how does it end it?"""

import json
import logging
import math
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from . import clock, memory, processes
from .channel import Channel, Message
from .evidence import Evidence
from .job import Job
from .outcome import (
    Cancelled,
    Crashed,
    Failed,
    Outcome,
    OutOfMemory,
    Released,
    Succeeded,
    TimedOut,
)
from .scales import Scales
from .witness import STACK_SIGNAL, Witness

logger = logging.getLogger("background_task.supervisor")

# A tree that goes on growing after it was asked to stop is not given its grace.
_GROWING_ON = 1.25
# Seconds between two looks whether a process that is to be killed at once has written
# its stack down, and for all of them.
_LAST_LOOK, _LAST_LOOKS = 0.02, 0.2


_LONGEST_SESSION = 1_000  # characters
_MOST_SESSIONS = 20  # that are ended when a process is stopped: the last ones

LONGEST_REST = 60.0  # seconds that a process waits for another job

_REASONS = {
    TimedOut: "time",
    OutOfMemory: "memory",
    Released: "release",
    Cancelled: "cancel",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, by its own words."""

    done: int
    total: int | None = None
    message: str = ""

    @classmethod
    def of(cls, done: int, message: Message) -> "Progress":
        total = message.get("total")
        text = str(message.get("message", ""))
        return cls(done, total if isinstance(total, int) else None, text)


def _number(value: object) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Report:
    """The last word of a task's process."""

    verdict: str  # "succeeded", "failed", "stopped" or "unprepared"
    at: float
    error: str = ""
    permanent: bool = False
    memory_error: bool = False
    cpu: float | None = None  # seconds


class Child:
    """One live process: watch it, ask it to stop, insist, sum it up.

    Called from the supervisor's loop only; nothing here blocks.
    """

    def __init__(
        self,
        number: int,
        job: Job,
        channel: Channel,
        now: float,
        start_timeout: float,
        *,
        run: int = 1,
        more: bool = False,
        witness: Witness | None = None,
        folder: str | None = None,
    ) -> None:
        """`number` names the process to the launcher; the timeout is in seconds.

        It is the process's `run`th job; `more` may follow, if it is fit for them.
        The `witness` is taken over; `folder` is for its temporary files.
        """
        self.number = number
        self.run = run
        self.job = job
        self.channel = channel
        self.asked_for_at = now
        self.pid: int | None = None
        self.begun: float | None = None
        self.report: Report | None = None
        self.progress: Progress | None = None  # as it says itself
        self.told_progress: Progress | None = None  # what is in the books of it
        self.moved_at: float | None = None  # when it last said so
        self.sessions: list[dict[str, Any]] = []  # elsewhere, which outlive it
        self.scales = Scales(job.limits.memory)
        self.witness = witness
        self.evidence = Evidence()  # once it is over, and
        self.testified = False
        self.stopping: Outcome | None = None  # why we asked it to stop
        self.deadline: float | None = now + start_timeout  # of what it does now
        self.kill_at: float | None = None
        self.over = False  # its outcome can be told
        self.idle = False  # it waits for another job
        self.gone = False
        self.out_of_reach = False  # it has become another user's, and goes on
        self._more = more
        self._signalled = self._tells_its_stack = False
        self._urgent = False  # it is killed as soon as its stack is there
        self._pidfd: int | None = None
        self._ended_at: float | None = None
        self._cpu: float | None = None
        self._resident: int | None = None  # bytes at most, by the kernel
        self._oom: str = ""  # what is known of who has killed it
        self._stopped_at: float | None = None
        self._exitcode: int | None = None
        self._start_text = (
            f"it had not begun after {start_timeout:g} s "
            "(BACKGROUND_TASK_START_TIMEOUT)"
        )
        fds = [] if witness is None else witness.ends()
        self.folder = folder
        channel.send("job", fds=fds, job=job.to_message(), more=more, folder=folder)

    def __str__(self) -> str:
        return str(self.job)

    def started(self, pid: int, pidfd: int | None) -> None:
        """The launcher says that the process runs; the pidfd is ours from now on."""
        self.pid = pid
        self._pidfd = pidfd

    def heed(self, message: Message, now: float) -> None:
        """Take in what the process says of itself."""
        match message:
            case {"kind": "begun", "at": float(at)} if self.begun is None:
                self._tells_its_stack = message.get("stack") is True
                self.begun = self.moved_at = self._moment(at, now)
                seconds = self.job.limits.seconds
                self.deadline = None if seconds is None else self.begun + seconds
            case {"kind": "progress", "done": int(done)}:
                self.progress = Progress.of(done, message)
                self.moved_at = now
            case {"kind": "session", "session": dict(session)} if (
                len(json.dumps(session)) <= _LONGEST_SESSION
            ):
                self.sessions = [*self.sessions[-_MOST_SESSIONS:], session]
            case {"kind": "report", "verdict": str(verdict), "at": float(at)}:
                self.report = Report(
                    verdict,
                    self._moment(at, now),
                    str(message.get("error", "")),
                    message.get("permanent") is True,
                    message.get("memory_error") is True,
                    _number(message.get("cpu")),
                )
                self.deadline = None
                self._insist_by(now + self.job.limits.grace)
            case {"kind": "idle"} if self.report is not None and self._more:
                self._rest(now)

    def _rest(self, now: float) -> None:
        """Its try is over, its process is not; one that was signalled has to leave."""
        if self.over:
            return
        if self._signalled or self.stopping is not None:
            self.dismiss(now)
            return
        self.over = self.idle = True
        self._ended_at = now
        self.kill_at, self.deadline = None, now + LONGEST_REST

    def hand(
        self,
        job: Job,
        now: float,
        start_timeout: float,
        *,
        more: bool,
    ) -> "Child":
        """Hand another job to the process, which is idle; return the child of that.

        It goes on with the witness and the folder of this one.
        """
        child = Child(
            self.number,
            job,
            self.channel,
            now,
            start_timeout,
            run=self.run + 1,
            more=more,
            witness=self.witness,
            folder=self.folder,
        )
        self.witness = self.folder = None
        child.sessions = self.sessions
        child.pid, child._pidfd, self._pidfd = self.pid, self._pidfd, None
        self.idle = False
        return child

    def dismiss(self, now: float) -> None:
        """Have it leave, with no job to come; insist after the grace."""
        self._more = self.idle = False
        self.deadline = None
        self._insist_by(now + self.job.limits.grace)
        self.channel.send("leave")

    @property
    def never_took_it(self) -> bool:
        """Was the process, idle until then, gone before it took the job?

        It says *begun* and waits until that is sent before anything of the job runs.
        """
        unheard = self.begun is None and self.report is None and self.stopping is None
        return self.gone and self.run > 1 and unheard

    def _moment(self, at: float, now: float) -> float:
        """Return the moment that it names, or now if it cannot be that one."""
        return at if self.asked_for_at <= at <= now else now

    @property
    def took(self) -> float | None:
        """How many seconds the task took by its own words, if it reported its end."""
        if self.begun is None or self.report is None:
            return None
        return self.report.at - self.begun

    def prolong(self) -> None:
        """Count its time limit anew, from now."""
        if self.deadline is not None and self.job.limits.seconds is not None:
            self.deadline = clock.now() + self.job.limits.seconds

    @property
    def stalls_at(self) -> float | None:
        """When is it stopped unless it tells of progress before? None: never."""
        stall = self.job.limits.stall
        works = self.report is None and self.stopping is None and not self.over
        if stall is None or self.moved_at is None or not works:
            return None
        return self.moved_at + stall

    def enforce_time(self, now: float) -> None:
        """Ask it to stop at its deadline; kill it when its grace has run out."""
        if self.deadline is not None and now >= self.deadline:
            self._over_time(now)
        if (stalls_at := self.stalls_at) is not None and now >= stalls_at:
            limits, final = self.job.limits, self.job.limits.timeout_is_final
            assert limits.stall is not None, "there is a moment of it"
            self.stop(TimedOut(limits.stall, limits.stall_name, True, final), now)
        if self.kill_at is not None and now >= self.kill_at:
            if self._still_writes_its_stack(now):
                self.kill_at = now + _LAST_LOOK
            else:
                self.kill()

    def _still_writes_its_stack(self, now: float) -> bool:
        """Has one that is to be killed at once been asked where it is just now?"""
        if not self._urgent or self._stopped_at is None or self.witness is None:
            return False
        in_time = self._tells_its_stack and now < self._stopped_at + _LAST_LOOKS
        return in_time and not self.witness.stack()

    def _over_time(self, now: float) -> None:
        limits = self.job.limits
        if self.idle:
            self.dismiss(now)
        elif self.begun is None:
            self.stop(Crashed(None, while_starting=True, text=self._start_text), now)
        elif limits.seconds is not None:
            final = limits.timeout_is_final
            why = TimedOut(limits.seconds, limits.seconds_name, permanent=final)
            self.stop(why, now)

    @property
    def look_at(self) -> float | None:
        """When is it to be seen next what it holds? None: never."""
        if self.begun is None or self.report is not None or self.pid is None:
            return None
        return self.scales.look_at(self.begun)

    def enforce_memory(self, now: float, template: int | None) -> None:
        """Ask it to stop when its tree holds too much; kill one that grows on.

        `template` is the pid of the process that it was forked from, if it was.
        """
        if self.pid is None or self.gone or self.begun is None:
            return
        used = self.scales.look(self.pid, template, now, now - self.begun)
        limits = self.job.limits
        if used is None or limits.memory is None or used <= limits.memory:
            return
        final = limits.memory_is_final
        self.stop(OutOfMemory(used, limits.memory, limits.memory_name, final), now)
        if used > limits.memory * _GROWING_ON:
            self._urgent = True
            self._insist_by(now + _LAST_LOOK)

    def give_way(self, used: int, held: int, limit: int, now: float) -> None:
        """Stop at once: it holds the most in a container that is nearly full."""
        final = self.job.limits.memory_is_final
        name = "the container's memory limit"
        self._urgent = True
        self.stop(
            OutOfMemory(used, limit, name, final, container_held=held),
            now,
            kill_at=now + _LAST_LOOK,
        )

    def weigh(self, template: int | None) -> int:
        """Return how many bytes its tree holds of its own; costs a long look."""
        return 0 if self.pid is None else self.scales.weigh(self.pid, template)

    def holds_less(self, size: float, template: int | None) -> bool:
        """Does its tree hold less than `size` bytes? See `enforce_memory`."""
        if self.pid is None or memory.of_tree(self.pid) < size:
            return True
        return memory.own_of_tree(self.pid, template) < size

    def stop(self, why: Outcome, now: float, kill_at: float | None = None) -> None:
        """Ask it to stop; insist after the grace, or at `kill_at` if that is sooner.

        The first reason is the one that counts. One that has reported already is
        only held to leave in time.
        """
        if self.over:
            return
        moment = now + self.job.limits.grace
        self._insist_by(moment if kill_at is None else min(moment, kill_at))
        if self.stopping is not None or self.report is not None:
            return
        self.stopping = why
        self.deadline = None
        self._stopped_at = now
        if self.begun is None:
            self.kill()  # nothing of the user's task has run that could unwind
            return
        self.channel.send("stop", reason=_REASONS[type(why)], text=str(why))
        if not isinstance(why, Released):
            self.ask_for_stack()
        self._signal(signal.SIGTERM)

    def ask_for_stack(self) -> bool:
        """Ask where it is; return whether it can tell. See `told_stack`."""
        witness = self.witness
        if not self._tells_its_stack or witness is None or self.gone or not self.pid:
            return False
        witness.forget_stack()
        return processes.send_signal(self.pid, self._pidfd, STACK_SIGNAL)

    def told_stack(self) -> str:
        """Return what it has told, once: nothing if it has not yet."""
        if self.witness is None or self.stopping is not None:
            return ""
        if text := self.witness.stack():
            self.witness.forget_stack()  # a crash would be written behind it
        return text

    def kill(self) -> None:
        """Kill the process; the launcher sweeps what it leaves behind.

        One that has become another user's cannot be killed. Its try is not over before
        it ends by itself, so that no other runs beside it; a runner that is to stop
        does not wait for it.
        """
        self.kill_at = 0.0 if self.pid is None else None  # as soon as we know its pid
        if not self._signal(signal.SIGKILL) and not self.out_of_reach:
            self.out_of_reach = True
            logger.error(
                "%s: process %s has become another user's and cannot be killed; its "
                "slot is taken until it ends by itself",
                self,
                self.pid,
            )

    def ended(
        self,
        exitcode: int | None,
        *,
        cpu: float | None = None,
        peak: int | None = None,
        killed_by: str = "",
    ) -> None:
        """It is dead and its tree is swept; None: nobody could see how it died.

        It took `cpu` seconds; `peak` bytes were resident, if it was too short to be
        looked at. `killed_by` is what is known of who has killed it.
        """
        self._exitcode, self._oom = exitcode, killed_by
        if self.run == 1:  # else they are of all its jobs
            self._cpu, self._resident = cpu, peak
        self._ended_at = self._ended_at or clock.now()
        self.gone = self.over = True
        self.idle = False
        self.deadline = self.kill_at = None

    def testify(self) -> None:
        """Its try is over, and all of its output has been read: keep what is known."""
        self.evidence = self._gather()
        self.testified = True
        if self.witness is not None:
            if self.report is None and self.stopping is None:
                self.witness.hand_on_stack()
            self.witness.output.start_anew()

    def _gather(self) -> Evidence:
        now, epoch = clock.now(), time.time()
        over = self._ended_at if self.report is None else self.report.at
        cpu = self.report.cpu if self.report is not None else self._cpu
        return Evidence(
            started=None if self.begun is None else epoch - (now - self.begun),
            ended=epoch - (now - (over or now)),
            pid=self.pid,
            exitcode=self._exitcode,
            cpu=cpu,
            peak=self._peak(),
            output="" if self.witness is None else self.witness.output.text(),
            output_size=0 if self.witness is None else self.witness.output.size,
            stack="" if self.witness is None else self.witness.stack(),
        )

    def _peak(self) -> int | None:
        """Return the most that it was seen to hold, else what was resident at most."""
        seen = self.scales.peak
        return seen if seen or self._resident is None else self._resident

    def close(self) -> None:
        if self.witness is not None:
            self.witness.close()
            self.witness = None
        self.channel.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def outcome(self, *, draining: bool = False) -> Outcome:
        """Sum it up by the evidence, in the order in which it can be believed.

        While `draining`, a SIGTERM that was not ours came with ours: systemd, for
        one, sends it to every process of a unit.
        """
        report = self.report
        if report and report.verdict == "succeeded" and self._in_time(report):
            return Succeeded()
        if self.stopping is not None:
            return self.stopping
        if report is None and draining and self._was_stopped_unbegun():
            return Released("the runner was stopped before it began")
        if report is None:
            starting = self.begun is None
            return Crashed(self._exitcode, starting, self._oom)
        if report.verdict == "unprepared":
            return Released(f"the project cannot be set up: {report.error}")
        if report.verdict == "stopped" and draining:
            return Released("the runner was stopped")
        limits = self.job.limits
        if report.memory_error and limits.hard_memory and limits.memory is not None:
            return OutOfMemory(
                self.scales.peak or limits.memory,
                limits.memory,
                limits.memory_name,
                limits.memory_is_final or report.permanent,
                report.error,
            )
        return Failed(report.error, report.permanent)

    def left_sessions(self) -> list[dict[str, Any]]:
        """Return what it has left behind elsewhere, since it was stopped or died."""
        unwound = self.report is not None and self.stopping is None
        return [] if unwound else self.sessions

    def _was_stopped_unbegun(self) -> bool:
        """Did a signal to everybody end it before anything of the task had run?"""
        asked = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
        return self.begun is None and self._exitcode in asked

    def _in_time(self, report: Report) -> bool:
        """Was it said before we stopped it? A release is no limit: it may finish."""
        if self._stopped_at is None or isinstance(self.stopping, Released):
            return True
        return report.at <= self._stopped_at

    def _insist_by(self, moment: float) -> None:
        self.kill_at = moment if self.kill_at is None else min(moment, self.kill_at)

    def _signal(self, number: int) -> bool:
        """Return False if it is out of our reach."""
        self._signalled = True
        if self.pid is None or self.gone:
            return True
        return processes.send_signal(self.pid, self._pidfd, number)
