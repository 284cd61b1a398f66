"""Who starts, sweeps and reaps the processes of tasks?

The launcher is a process of its own: all tasks are its children, and what a task
leaves behind becomes its child when the task dies. It decides nothing. When its
supervisor is gone it kills everything and exits.

This module has both sides: `Launcher` is called from the supervisor's loop, the rest
runs in the launcher's process. Its form is the spawner: it holds nothing of the
project and starts every task as a fresh interpreter.
"""

import contextlib
import os
import select
import signal
import socket
from multiprocessing.context import SpawnProcess

from setproctitle import setproctitle

from . import clock, entry, processes, spawning
from .aide import Aide
from .channel import Channel, Message, pair
from .job import Project
from .wakeups import Wakeups

_SWEEP_EVERY = 0.02  # seconds, while something that was killed is not yet dead


class Launcher(Aide):
    """The supervisor's handle on its launcher."""

    name = "launcher"

    def __init__(self, project: Project) -> None:
        super().__init__()
        self.project = project
        self._asked_at: float | None = None

    def start(self) -> None:
        """Start the process; it answers `ready` or `failed`."""
        self._asked_at = None
        self._start(launch, self.project)

    def start_child(self, number: int) -> socket.socket:
        """Have a child started; return our end of its channel."""
        ours, theirs = pair()
        self.channel.send("start", fds=[theirs.detach()], number=number)
        return ours

    @property
    def silent_since(self) -> float | None:
        """Since when has it owed us a sign of life?"""
        return self._asked_at

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._asked_at is None:
            self._asked_at = clock.now()
            self.channel.send("ping")

    def receive(self) -> list[Message]:
        messages = super().receive()
        if any(message["kind"] == "pong" for message in messages):
            self._asked_at = None
        return messages


def launch(end: socket.socket, project: Project) -> None:
    """Be the launcher. Runs in its process."""
    spawning.begin()
    spawning.turn_deaf()
    processes.adopt_orphans()
    setproctitle(f"{processes.TITLE} launcher (spawn)")
    with contextlib.closing(Channel(end)) as channel, Wakeups([signal.SIGCHLD]) as bell:
        _Spawner(channel, project).run(bell)


class _Spawner:
    """Starts a fresh interpreter per task."""

    def __init__(self, channel: Channel, project: Project) -> None:
        self._channel = channel
        self._project = project
        self._alive: dict[int, tuple[int, SpawnProcess]] = {}  # by pid
        self._dead: dict[int, int] = {}  # pid to number: not yet swept
        self._discovery: Channel | None = None
        self._discovery_pid: int | None = None

    def run(self, wakeups: Wakeups) -> None:
        """Serve until the supervisor is gone, then leave nothing behind."""
        self._start_discovery()
        while not self._channel.ended:
            self._wait(wakeups)
            wakeups.take()
            self._channel.flush()
            for message in self._channel.receive():
                self._heed(message)
            self._hear_discovery()
            self._look_for_dead()
            self._sweep()
        self._end_everything()

    def _wait(self, wakeups: Wakeups) -> None:
        readable: list[Wakeups | Channel] = [wakeups, self._channel]
        if self._discovery is not None:
            readable.append(self._discovery)
        writable = [self._channel] if self._channel.waiting_to_send else []
        select.select(readable, writable, [], _SWEEP_EVERY if self._dead else None)

    def _heed(self, message: Message) -> None:
        match message:
            case {"kind": "start", "number": int(number), "fds": [int(fd)]}:
                self._start(number, fd)
            case {"kind": "ping"}:
                self._channel.send("pong")

    def _start(self, number: int, fd: int) -> None:
        with socket.socket(fileno=fd) as end:
            try:
                process = spawning.start(entry.run, end, self._project)
            except OSError as error:  # no more processes, memory or descriptors
                self._channel.send("unstarted", number=number, error=str(error))
                return
        pid = process.pid
        assert pid is not None
        self._alive[pid] = number, process
        pidfd = processes.handle(pid)
        self._channel.send(
            "started", fds=[] if pidfd is None else [pidfd], number=number, pid=pid
        )

    def _start_discovery(self) -> None:
        ours, theirs = pair()
        self._discovery = Channel(ours)
        self._discovery_pid = spawning.start(entry.discover, theirs, self._project).pid
        theirs.close()

    def _hear_discovery(self) -> None:
        """Pass on what the discovery child says; its silent death is an answer too."""
        if self._discovery is None:
            return
        for message in self._discovery.receive():
            self._channel.send(message.pop("kind"), **message)
            self._discovery.close()
        if self._discovery.ended:
            text = "The process that discovers the tasks died without a word.\n"
            self._channel.send("failed", traceback=text)  # the first answer counts
            self._discovery.close()
            self._discovery = None

    def _look_for_dead(self) -> None:
        """Move the dead from alive to dead, without reaping them yet.

        A zombie keeps its pid: its group, which has the same number, is still its own.
        """
        for pid in list(self._alive):
            if _is_dead(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # fails: nobody is left in it
                self._dead[pid], _ = self._alive.pop(pid)
        if self._discovery_pid is not None and _is_dead(self._discovery_pid):
            os.waitpid(self._discovery_pid, 0)
            self._discovery_pid = None

    def _sweep(self) -> None:
        """Kill what dead tasks left behind; when nothing is left, reap and tell."""
        if self._orphans_left():
            return
        for pid, number in self._dead.items():
            _, status, usage = os.wait4(pid, 0)
            self._channel.send(
                "exited",
                number=number,
                status=os.waitstatus_to_exitcode(status),
                cpu=usage.ru_utime + usage.ru_stime,
                peak=usage.ru_maxrss * 1024,
            )
        self._dead.clear()

    def _orphans_left(self) -> bool:
        """Kill every child that was not started here, and reap what has died of it."""
        orphans = processes.children(os.getpid()) - self._own_children()
        return _kill_and_reap(orphans)

    def _own_children(self) -> set[int | None]:
        own: set[int | None] = {*self._alive, *self._dead}
        return own | {self._discovery_pid, spawning.resource_tracker_pid()}

    def _end_everything(self) -> None:
        """Kill every task and all that they started, until nothing is left."""
        if self._discovery is not None:
            self._discovery.close()
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):  # not yet its own group
                os.killpg(pid, signal.SIGKILL)
        spare = {spawning.resource_tracker_pid()}
        while _kill_and_reap(processes.children(os.getpid()) - spare):
            select.select([], [], [], _SWEEP_EVERY)


def _is_dead(pid: int) -> bool:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


def _kill_and_reap(pids: set[int]) -> bool:
    """Kill children of this process; return whether some are still to die.

    What they have started becomes this process's child when they die, so the answer
    to somebody having died is always: look again.
    """
    for pid in pids:
        os.kill(pid, signal.SIGKILL)  # a child not yet reaped: the pid is its own
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return bool(pids)
