"""What runs right now? The children, each watched, limited and heard out."""

import contextlib
import math
import signal
from collections.abc import Iterator
from typing import Self

from . import clock
from .aide import Backoff
from .channel import Channel, pair
from .child import Child
from .container import Container
from .folders import Folders
from .job import Job
from .launcher import Launcher
from .output import Relay
from .watch import Watch
from .witness import Witness

_HELD_BEFORE = 0.5  # of a job's memory limit: the most that an idle process may hold
_CHUNK, _LONGEST_LINE = 1 << 18, 1 << 20  # bytes: per child and pass, and of a message


class Slots:
    """The children that are not yet known to be dead and swept.

    Called from the supervisor's loop only; nothing here blocks.
    """

    def __init__(
        self,
        launcher: Launcher,
        watch: Watch,
        start_timeout: float,
        tasks_per_process: int = 1,
        container: Container | None = None,
    ) -> None:
        """`start_timeout` is in seconds: from the start to the task's first moment.

        A process runs up to `tasks_per_process` tasks, one after the other.
        """
        self.backoff = Backoff()  # starts are slowed down while they fail
        self._launcher = launcher
        self._watch = watch
        self._start_timeout = start_timeout
        self._tasks_per_process = tasks_per_process
        self._container = container or Container()
        self._oom_kills: dict[int, int | None] = {}  # at each child's start
        self._moved = False
        self._last_oom_kills: tuple[float, int | None] = -math.inf, None
        self._relay, self._folders = Relay(1), Folders()
        self._children: dict[int, Child] = {}  # by number
        self._numbers = 0
        self._slowed_by = 0  # the last child that was started before the last failure

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._relay)
            stack.enter_context(self._folders)
            stack.callback(self._close)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._children)

    def __getitem__(self, number: int) -> Child:
        return self._children[number]

    @property
    def all_idle(self) -> bool:
        """Do all of them wait for another job?"""
        return all(child.idle for child in self._children.values())

    @property
    def leaving(self) -> bool:
        """Is there one whose try is over, and which is not gone?"""
        return any(child.over for child in self._children.values())

    def start(self, job: Job) -> Child:
        """Have an idle process take a job, or one started for it.

        Raises OSError when no descriptors or memory are to be had.
        """
        former = self._idle_for(job)
        child = self._begin(job) if former is None else self._hand(former, job)
        self._children[child.number] = child
        return child

    def _idle_for(self, job: Job) -> Child | None:
        """Return the process that was last in use and can take the job, or None.

        One that holds much of the job's memory limit already has to leave: what earlier
        tasks have left in it must not end this one.
        """
        if job.id is None:
            return None  # not a task's
        limit, now = job.limits.memory, clock.now()
        template = self._launcher.template_pid
        idle = [child for child in self._children.values() if child.idle]
        for child in sorted(idle, key=lambda child: child.deadline or 0, reverse=True):
            if limit is None or child.holds_less(limit * _HELD_BEFORE, template):
                return child
            child.dismiss(now)
        return None

    def _hand(self, former: Child, job: Job) -> Child:
        self._oom_kills[former.number] = self._oom_kills_until_now()
        more = self._may_follow(former.run + 1, job)
        return former.hand(job, clock.now(), self._start_timeout, more=more)

    def _witness(self) -> Witness:
        """Raises OSError when no descriptors are to be had."""
        witness = Witness(self._relay)
        try:
            self._watch.listen(witness.output)
        except OSError:
            witness.close()
            raise
        return witness

    def _may_follow(self, run: int, job: Job) -> bool:
        return job.id is not None and run < self._tasks_per_process

    def _begin(self, job: Job) -> Child:
        """Have a process started for a job."""
        witness = self._witness()
        with contextlib.ExitStack() as undo:
            undo.callback(self._undo_witness, witness)
            ours, theirs = pair()
            undo.callback(theirs.close)
            channel = undo.enter_context(
                contextlib.closing(Channel(ours, _LONGEST_LINE))
            )
            self._watch.add(channel)
            undo.pop_all()
        with theirs:
            self._numbers += 1
            self._oom_kills[self._numbers] = self._oom_kills_until_now()
            self._launcher.start_child(self._numbers, theirs.detach())
        return Child(
            self._numbers,
            job,
            channel,
            clock.now(),
            self._start_timeout,
            more=self._may_follow(1, job),
            witness=witness,
            folder=self._folders.make(str(self._numbers)),
        )

    def _undo_witness(self, witness: Witness) -> None:
        self._watch.ignore(witness.output)
        witness.close()

    def dismiss_idle(self, *, for_good: bool = False) -> None:
        """Have the idle leave; `for_good`: nor shall others be idle from now on."""
        if for_good:
            self._tasks_per_process = 1
        for child in self._children.values():
            if child.idle:
                child.dismiss(clock.now())

    def failed(self, child: Child | None) -> bool:
        """A child has not begun, or None could be had: slow the starts down.

        That is done once for all that were started before; returns whether it was.
        """
        if child is not None and child.number <= self._slowed_by:
            return False
        self._slowed_by = self._numbers
        self.backoff.failed()
        return True

    def hear(self) -> bool:
        """Take in what the children say; return whether one of them has begun."""
        ready = self._watch.ready
        begun = [
            self._hear(child)
            for child in self._children.values()
            if child.channel in ready
            or (child.witness is not None and child.witness.output in ready)
        ]
        return any(begun)

    def _hear(self, child: Child) -> bool:
        """Take in a bounded amount of what it says; return whether it has begun."""
        self._read_output(child)
        if child.channel.ended:
            return False
        waiting = child.begun is None
        for message in child.channel.receive(most=_CHUNK):
            child.heed(message, clock.now())
            self._moved = self._moved or message["kind"] == "progress"
        if child.idle and not child.testified:  # it has flushed its output
            self._read_output(child)
            child.testify()
        if child.idle and self._tasks_per_process == 1:
            child.dismiss(clock.now())
        if child.channel.ended:  # an alarm clock only: the exit status is believed
            if child.idle:
                child.dismiss(clock.now())
            self._watch.forget(child.channel)
        has_begun = waiting and child.begun is not None
        if has_begun:
            self.backoff.succeeded()
        return has_begun

    def moved(self) -> bool:
        """Has one of them told of progress since the last call?"""
        moved, self._moved = self._moved, False
        return moved

    def _read_output(self, child: Child) -> None:
        if child.witness is not None:
            child.witness.output.read(_CHUNK)
            if child.witness.output.ended:
                self._watch.ignore(child.witness.output)

    def gone(
        self,
        number: int,
        exitcode: int | None,
        *,
        cpu: float | None = None,
        peak: int | None = None,
    ) -> None:
        """A child is dead and swept; None: nobody could see how it died.

        It took `cpu` seconds, and `peak` bytes were resident beyond its template's.
        """
        child = self._children.pop(number)
        for _ in range(_LONGEST_LINE // _CHUNK + 1):
            self._hear(child)  # its last words
        killer = self._killer(child) if exitcode == -signal.SIGKILL else ""
        was_over = child.over  # its evidence is of its try, and it went on
        child.ended(exitcode, cpu=cpu, peak=peak, killed_by=killer)
        if not was_over:
            self._read_output(child)
            child.testify()
        if child.witness is not None:
            self._watch.ignore(child.witness.output)
        if child.folder is not None:
            self._folders.remove(child.folder)
        self._oom_kills.pop(number, None)
        self._watch.forget(child.channel)
        child.close()

    def _oom_kills_until_now(self) -> int | None:
        """Return the container's count, to the second: it is asked for every job."""
        at, _ = self._last_oom_kills
        if clock.now() >= at + 1.0:
            self._last_oom_kills = clock.now(), self._container.oom_kills()
        return self._last_oom_kills[1]

    def _killer(self, child: Child) -> str:
        """Say whether the kernel has killed for memory in the child's time."""
        before, now = self._oom_kills.get(child.number), self._container.oom_kills()
        if before is None or now is None:
            return ""
        if now > before:
            return (
                "the process was killed by SIGKILL, not by its supervisor: while it "
                "ran the kernel has killed for want of memory (oom_kill "
                f"{before} -> {now})"
            )
        return (
            "the process was killed by SIGKILL, not by its supervisor; as far as its "
            "control group tells the kernel was not out of memory"
        )

    def all_gone(self) -> None:
        """All are dead and swept, with the launcher that could have seen how."""
        for number in list(self._children):
            self.gone(number, None)

    def enforce_limits(self, now: float) -> None:
        """Stop what has run out of time or memory; kill what did not heed it."""
        for child in self._children.values():
            child.enforce_time(now)
            if child.look_at is not None and now >= child.look_at:
                child.enforce_memory(now, self._launcher.template_pid)

    def never_came(self, now: float) -> list[Child]:
        """Return those of which the launcher will never say that they have started.

        It has answered since, and it takes its messages in order: one got lost.
        """
        return [
            child
            for child in self._children.values()
            if child.pid is None
            and now >= child.asked_for_at + self._start_timeout
            and self._launcher.answers_until > child.asked_for_at
        ]

    def moments(self) -> Iterator[float]:
        """Yield when there will be something to enforce."""
        for child in self._children.values():
            if child.deadline is not None:
                yield child.deadline
            for moment in (child.kill_at, child.stalls_at, child.look_at):
                if moment is not None:
                    yield moment

    def _close(self) -> None:
        for child in self._children.values():
            child.close()
