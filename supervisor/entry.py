"""What is the first code that a task's process runs, and its last word?

Everything here runs in the child. It knows no Django: what makes it the user's project
(`prepare`) and what the job is (`target`) are dotted names.
"""

import contextlib
import contextvars
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from setproctitle import setproctitle

from . import clock, processes, resources, spawning, witness
from .channel import Channel, wait
from .evidence import cleaned
from .job import Job, Project
from .sandbox import Sandbox, offer_to_the_kernel
from .surroundings import Surroundings

LONGEST_TEXT = 65_536  # characters of an error that are kept
_OWN_PACKAGE = __name__.partition(".")[0]


class Stopped(BaseException):
    """Raised in a job's main thread when the job is asked to stop."""


class Context:
    """What a target learns of its try, and what it may say about its stopping."""

    def __init__(
        self, job: Job, deadline: float | None, channel: Channel, *, more: bool = False
    ) -> None:
        self.claim = job.claim
        self.more = more  # another job may follow in this process
        self.deadline = deadline  # on `clock.now()`; None: no time limit
        # Called with the reason ("time", "memory", "release", "cancel"; "signal" when
        # it was not the supervisor) and its text; the target may set another.
        self.stop_with: Callable[[str, str], BaseException] = _stopped
        # Called before a process leaves of which `more` was said.
        self.leave_with: Callable[[], None] = _nothing
        self.permanent = False  # set: what it raises is not tried again
        self._channel = channel

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Tell the supervisor how much is done."""
        _say(self._channel, "progress", done=done, total=total, message=message)

    def session(self, session: dict[str, Any]) -> None:
        """Tell the supervisor what is to be ended elsewhere if this one is stopped."""
        _say(self._channel, "session", session=session)

    def now(self) -> float:
        """Return the moment, on the clock of `deadline`."""
        return clock.now()


def _stopped(reason: str, text: str) -> BaseException:
    return Stopped(text)


def _nothing() -> None:
    pass


def run(end: socket.socket, project: Project) -> NoReturn:
    """Be a task's process: become the project, take a job, run it, report, leave."""
    _begin("waiting for a task")
    witness.write_lines_at_once()
    channel = Channel(end)
    try:
        prepare(project)
    except BaseException as error:
        _report(channel, "unprepared", error=text_of(error))
        _leave(1)
    _run_jobs(channel)


def run_forked(end: socket.socket) -> NoReturn:
    """Be a task's process, forked from one that is the project already."""
    _begin("waiting for a task")
    _run_jobs(Channel(end))


def wait_forked(control: socket.socket) -> NoReturn:
    """Be a spare: wait for the end of a task's channel, then be its process."""
    _begin("spare")
    launcher = Channel(control)
    while not launcher.ended:
        wait([launcher])
        for message in launcher.receive():
            launcher.close()
            _forget_terms()
            _run_jobs(Channel(socket.socket(fileno=message["fds"][0])))
    _leave(1)


def _forget_terms() -> None:
    """A SIGTERM to a spare is none to the task that it takes."""
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # drops what is pending
    signal.signal(signal.SIGTERM, former or signal.SIG_DFL)


def _run_jobs(channel: Channel) -> NoReturn:
    """Take a job, run it, report; so again while more may follow; leave."""
    jobs = _Jobs(channel)
    code = 1
    while taken := _take_job(channel):
        code = jobs.run(*taken)
        if not jobs.may_go_on():
            break
        setproctitle(f"{processes.TITLE} idle")
        _say(channel, "idle")
    jobs.tidy_up()
    _leave(code)


def discover(end: socket.socket, project: Project) -> NoReturn:
    """Answer what the project's tasks are, and leave."""
    spawning.begin()
    processes.adopt_orphans()
    setproctitle(f"{processes.TITLE} discovery")
    channel = Channel(end)
    try:
        prepare(project)
        found = named(project.discover)() if project.discover else {}
    except BaseException as error:
        _say(channel, "failed", traceback=text_of(error))
        _leave(1)
    _say(channel, "ready", found=found)
    _leave(0)


class _Jobs:
    """The jobs of this process, each from its first moment to its report.

    SIGTERM is blocked before the first one; what it does between two: see `may_go_on`.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._box = Sandbox()
        self._over = True  # nothing may be raised into what runs now
        self._asked_to_stop = False
        self._is_fit = True  # for another job
        self._context: Context | None = None
        self._surroundings: Surroundings | None = None  # of the first of several
        self._masks: dict[int, set[int]] = {}  # of threads that fork, from before
        os.register_at_fork(
            before=self._hold_terms,
            after_in_parent=self._release_terms,
            after_in_child=self._leave_to_parent,
        )

    def run(self, job: Job, more: bool, fds: list[int], folder: str | None) -> int:
        """Run a job and report; return the exit code.

        `more` may follow. The `fds` are for its output and its stack, the `folder` is
        for its temporary files.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._box.take(job, fds, folder)
        if more and self._surroundings is None:
            self._surroundings = Surroundings()
        setproctitle(f"{processes.TITLE} {job.title}")
        began = clock.now()
        seconds = job.limits.seconds
        deadline = None if seconds is None else began + seconds
        context = self._context = Context(job, deadline, self._channel, more=more)
        signal.signal(signal.SIGTERM, self._on_term)
        _say(self._channel, "begun", at=began, stack=self._box.tells_its_stack)
        try:
            self._over = False
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            target = named(job.target)
            # In a copy: what is set in context variables ends with the job.
            contextvars.copy_context().run(target, job.args, context)
            self._over = True
        except BaseException as error:
            self._over = True
            return self._failed(error)
        self._report("succeeded")
        return 0

    def may_go_on(self) -> bool:
        """Is this process as it was before its first job, and was it never signalled?

        If so, a SIGTERM that has come since the job, or comes from now on, ends it.
        """
        if self._surroundings is None or self._context is None:
            return False
        if not self._context.more or os.getpid() != self._pid:
            return False
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        flush()
        if not self._surroundings.restore() or not self._surroundings.is_alone():
            return False
        if not self._is_fit:
            return False
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return True

    def tidy_up(self) -> None:
        """Have the last job's target close what it has kept open for another one."""
        if self._context is not None and os.getpid() == self._pid:
            with contextlib.suppress(BaseException):  # how it ended has been said
                self._context.leave_with()

    def _failed(self, error: BaseException) -> int:
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            self._is_fit = False
        self._report(
            "stopped" if self._asked_to_stop else "failed",
            error=text_of(error),
            permanent=self._is_permanent(error),
            memory_error=isinstance(error, MemoryError),
        )
        return 1

    def _is_permanent(self, error: BaseException) -> bool:
        assert self._context is not None, "a job has run"
        return self._context.permanent or getattr(error, "permanent", False) is True

    def _report(self, verdict: str, **fields: Any) -> None:
        if os.getpid() == self._pid:  # and no fork, which came here by returning
            _report(self._channel, verdict, cpu=self._box.cpu(), **fields)

    def _hold_terms(self) -> None:
        """Have a SIGTERM wait while the task forks.

        Python would forget one that comes to the child before its handler is gone, and
        a pool that ends its workers would wait for it for ever.
        """
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._masks[threading.get_ident()] = former

    def _release_terms(self) -> None:
        former = self._masks.pop(threading.get_ident(), None)
        if former is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def _leave_to_parent(self) -> None:
        """Have no part in the try. Runs in a process that the task has forked."""
        self._channel.close()
        if signal.getsignal(signal.SIGTERM) == self._on_term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._release_terms()

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        """Raise what the target wants, once, so that `finally` blocks unwind."""
        self._is_fit = False
        if self._over or self._asked_to_stop or self._context is None:
            return
        self._asked_to_stop = True
        for message in self._channel.receive():
            if message["kind"] == "stop":
                raise self._context.stop_with(message["reason"], message["text"])
        text = "Stopped by a SIGTERM that did not come from the supervisor"
        raise self._context.stop_with("signal", text)


def _begin(title: str) -> None:
    """Begin; a SIGTERM waits until the task can heed it."""
    spawning.begin({signal.SIGTERM})
    resources.restore_files()
    processes.adopt_orphans()
    offer_to_the_kernel()
    setproctitle(f"{processes.TITLE} {title}")


def prepare(project: Project) -> None:
    """Have this process become the project."""
    if project.prepare:
        named(project.prepare)(project.environment)


def named(dotted: str) -> Callable[..., Any]:
    """Return the function of a dotted name, "package.module:function"."""
    module, _, name = dotted.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _take_job(channel: Channel) -> tuple[Job, bool, list[int], str | None] | None:
    """Wait for a job; return what `_Jobs.run` takes, or None if there is none."""
    while True:
        for message in channel.receive():
            match message:
                case {"kind": "job", "job": dict(job)}:
                    more = message.get("more") is True
                    place = message.get("fds", []), message.get("folder")
                    return Job.from_message(job), more, *place
                case {"kind": "leave"}:
                    return None
        if channel.ended:
            return None
        wait([channel])


def _report(channel: Channel, verdict: str, **fields: Any) -> None:
    _say(channel, "report", verdict=verdict, at=clock.now(), **fields)


def _say(channel: Channel, kind: str, **fields: Any) -> None:
    """Send a message and wait until it is sent, or nobody is left to read it."""
    channel.send(kind, **fields)
    while channel.waiting_to_send:
        wait([], [channel])
        channel.flush()


def text_of(error: BaseException) -> str:
    """Return the error's traceback from the user's first frame on, clean and bounded.

    Clean: no NUL, which PostgreSQL refuses, and no lone surrogate, which nothing can
    encode. Bounded: the head and the tail of what is longer, of which alone copies are
    made to clean them.
    """
    try:
        frames = _user_frames(error.__traceback__)
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception as second:  # an exception whose own __str__ raises
        text = f"{type(error).__name__} (its text cannot be shown: {second!r})"
    return _bounded(text)


def _bounded(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        text = cleaned(text)
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    head, tail = cleaned(text[:half])[:half], cleaned(text[-half:])[-half:]
    return f"{head}\n[... {len(text) - 2 * half} characters ...]\n{tail}"


def _user_frames(trace: TracebackType | None) -> TracebackType | None:
    """Skip the leading frames of this package; keep all when there are no others."""
    inner = trace
    while inner and _is_own(inner.tb_frame.f_globals.get("__name__", "")):
        inner = inner.tb_next
    return inner or trace


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _OWN_PACKAGE


def _leave(code: int) -> NoReturn:
    """Flush what would be lost, and go without waiting for any thread or process.

    The report has been sent before: whatever hangs here is killed after the grace,
    and the outcome stays what was reported.
    """
    logging.shutdown()
    _flush_streams()
    os._exit(code)


def flush() -> None:
    """Have nothing in a buffer that would be written late, or by every fork again."""
    _flush_streams()
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        handler: Any = reference()
        if handler is not None:
            with contextlib.suppress(OSError, ValueError):
                handler.flush()


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        # It was not there, is closed, or nobody reads it.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
