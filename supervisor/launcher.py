"""Who starts, sweeps and reaps the processes of tasks?

The launcher is a process of its own: all tasks are its children, and what a task
leaves behind becomes its child when the task dies. It decides nothing. When its
supervisor is gone it kills everything and exits.

This module has both sides: `Launcher` is called from the supervisor's loop, the rest
runs in the launcher's process. How a process is started is the business of its form:
`template` forks one that has imported the project, `spawn` takes a fresh interpreter.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import Any

from setproctitle import setproctitle

from . import clock, entry, processes, resources, spawning, template
from .aide import Aide
from .channel import Channel, Message, wait
from .job import Project
from .spawner import Spawner
from .sweeper import EVERY, Remains, reap
from .template import Template
from .wakeups import Wakeups

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of rusage's maximum


class Launcher(Aide):
    """The supervisor's handle on its launcher."""

    name = "launcher"

    def __init__(self, project: Project, method: str = "spawn") -> None:
        """`method` is `template` or `spawn`."""
        super().__init__()
        self.project = project
        self.method = method
        self._ready = False
        self.grown_by = 0  # bytes, since it began to fork
        self._forks = False
        self._asked_at: float | None = None
        self.answers_until = 0.0  # it has heeded what was sent to it until then

    def start(self) -> None:
        """Start the process; it answers `ready` or `failed`."""
        self._ready, self.grown_by, self._forks = False, 0, False
        self._asked_at = None
        self._start(launch, self.project, self.method)

    @property
    def ready(self) -> bool:
        """Has it become fit to start children?"""
        return self.up and self._ready

    @property
    def template_pid(self) -> int | None:
        """The process whose heap its children share; None: they share nothing."""
        return self.pid if self._forks else None

    def start_child(self, number: int, end: int) -> None:
        """Have a child started; `end` is the descriptor of its end of a channel."""
        self.channel.send("start", fds=[end], number=number)

    @property
    def silent_since(self) -> float | None:
        """Since when has it owed us a sign of life? Whatever it says is one."""
        return self._asked_at and max(self._asked_at, self.heard_at)

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._asked_at is None:
            self._asked_at = clock.now()
            self.channel.send("ping")

    def receive(self) -> list[Message]:
        messages = super().receive()
        for message in messages:
            match message:
                case {"kind": "ready", "method": method}:
                    self._ready, self._forks = True, method == Template.method
                case {"kind": "pong", "grown_by": int(grown_by)}:
                    self.answers_until = self._asked_at or self.answers_until
                    self._asked_at, self.grown_by = None, grown_by
        return messages


def launch(end: socket.socket, project: Project, method: str) -> None:
    """Be the launcher. Runs in its process."""
    spawning.begin()
    processes.adopt_orphans()
    resources.dump_no_core()
    resources.read_nothing()
    setproctitle(f"{processes.TITLE} launcher ({method})")
    with contextlib.closing(Channel(end)) as channel:
        if method == Template.method:
            _launch_from_template(channel, project)
        else:
            spawning.turn_deaf()
            with Wakeups([signal.SIGCHLD]) as bell:
                spawner = Spawner(project)
                spawner.discover()
                _Launch(channel, spawner).run(bell)


def _launch_from_template(channel: Channel, project: Project) -> None:
    """Become the project, then fork; or spawn, if its imports leave threads running."""
    # It has no task yet that would be left behind, and an import may hang for ever.
    processes.signal_at_parents_death(signal.SIGKILL)
    try:
        found = template.become(project)
        processes.signal_at_parents_death(0)
    except BaseException as error:
        channel.send("failed", traceback=entry.text_of(error))
        _wait_for_the_end(channel)
        return
    doubts = template.doubts(channel)
    handlers: dict[int, Any] = {n: signal.getsignal(n) for n in spawning.OWN_SIGNALS}
    spawning.turn_deaf()
    form: Template | Spawner
    with Wakeups([signal.SIGCHLD]) as bell:
        if threads := template.threads():
            form = Spawner(project)
            doubts = [
                "Tasks are spawned, not forked: the project's imports have left "
                f"threads running ({', '.join(threads)}). Start them in the task."
            ]
            setproctitle(f"{processes.TITLE} launcher ({form.method})")
        else:
            form = Template(channel, bell, handlers)
        channel.send("ready", found=found, method=form.method, warnings=doubts)
        _Launch(channel, form).run(bell)


def _wait_for_the_end(channel: Channel) -> None:
    while not channel.ended:
        channel.wait()
        channel.receive()


class _Launch:
    """Starts, sweeps and reaps."""

    def __init__(self, channel: Channel, form: Template | Spawner) -> None:
        self._channel = channel
        self._form = form
        self._unheeded: deque[Message] = deque()
        self._alive: dict[int, tuple[int, Any]] = {}  # by pid: number, what it needs
        self._dead: dict[int, int] = {}  # pid to number: not yet swept
        self._remains = Remains()
        self._reserve = resources.Reserve()
        self._unwanted: dict[int, OSError] = {}  # by pid: started in vain, and killed

    def run(self, wakeups: Wakeups) -> None:
        """Serve until the supervisor is gone, then leave nothing behind."""
        while not self._channel.ended:
            self._form.work(self._channel)
            self._wait(wakeups)
            wakeups.take()
            self._channel.flush()
            self._unheeded.extend(self._channel.receive())
            while self._unheeded:
                self._heed(self._unheeded.popleft())
            self._look_for_dead()
            with self._reserve:
                self._sweep()
        self._end_everything()

    def _wait(self, wakeups: Wakeups) -> None:
        readable: list[Any] = [wakeups, self._channel, *self._form.readable()]
        writable = [self._channel] if self._channel.waiting_to_send else []
        wait(readable, writable, EVERY if self._dead else None)

    def _heed(self, message: Message) -> None:
        match message:
            case {"kind": "start", "number": int(number), "fds": [int(fd)]}:
                self._start(number, fd)
            case {"kind": "start", "number": int(number)}:  # its descriptor was lost
                no_room = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._unstarted(number, no_room)
            case {"kind": "ping"}:
                with self._reserve:
                    grown_by = self._form.grown_by()
                self._channel.send("pong", grown_by=grown_by)

    def _start(self, number: int, fd: int) -> None:
        try:
            others = [fd for message in self._unheeded for fd in message.get("fds", ())]
            pid, needed = self._form.start(socket.socket(fileno=fd), others)
        except OSError as error:  # no more processes, memory or descriptors
            self._unstarted(number, error)
            return
        self._alive[pid] = number, needed
        try:
            pidfd = processes.handle(pid)
        except OSError as error:  # it could not be signalled for certain: have it not
            os.kill(pid, signal.SIGKILL)
            self._unwanted[pid] = error
            return
        self._channel.send(
            "started", fds=[] if pidfd is None else [pidfd], number=number, pid=pid
        )

    def _unstarted(self, number: int, error: OSError) -> None:
        """Say that no process is there for it, and with which limit of ours."""
        why = resources.explained(error)
        self._channel.send("unstarted", number=number, error=why)

    def _look_for_dead(self) -> None:
        """Move the dead from alive to dead, without reaping them yet.

        A zombie keeps its pid: its group, which has the same number, is still its own.
        """
        for pid in list(self._alive):
            if processes.is_dead(pid):
                _kill_group(pid)
                self._dead[pid], _ = self._alive.pop(pid)

    def _sweep(self) -> None:
        """Kill what dead tasks left behind; when nothing is left, reap and tell.

        What cannot be killed is told too, and not waited for: see `Remains`.
        """
        if self._kill_and_reap(spared=self._own_children()):
            return
        if survivors := self._remains.survivors():
            self._channel.send("survivors", processes=survivors)
        for pid, number in self._dead.items():
            _, status, usage = os.wait4(pid, 0)
            if error := self._unwanted.pop(pid, None):
                self._unstarted(number, error)
                continue
            self._channel.send(
                "exited",
                number=number,
                status=os.waitstatus_to_exitcode(status),
                cpu=usage.ru_utime + usage.ru_stime,
                peak=max(0, usage.ru_maxrss * _RSS_UNIT - self._form.inherited()),
            )
        self._dead.clear()

    def _own_children(self) -> set[int | None]:
        own: set[int | None] = {*self._alive, *self._dead}
        return own | self._form.own() | {spawning.resource_tracker_pid()}

    def _end_everything(self) -> None:
        """Kill every task and all that they started, until nothing is left."""
        self._reserve.close()
        self._form.close()
        for pid in self._alive:
            _kill_group(pid)
        while self._kill_and_reap(spared={spawning.resource_tracker_pid()}):
            select.select([], [], [], EVERY)

    def _kill_and_reap(self, spared: set[int | None]) -> bool:
        """Kill the children of this process; return whether to look again."""
        children = processes.children(os.getpid()) - spared
        look_again = self._remains.kill(children)
        reap(children)
        return look_again


def _kill_group(pid: int) -> None:
    with contextlib.suppress(
        ProcessLookupError,  # nobody is left in it, or it is not yet its own
        PermissionError,  # all that are left have become another user's
    ):
        os.killpg(pid, signal.SIGKILL)
