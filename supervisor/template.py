"""How is a task's process forked from one that has imported the project already?

The template sets the project up once, keeps no connection open, and has one thread, so
that a fork of it is a whole process of its own: session, limits, exit status.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from multiprocessing import process
from typing import Any, NoReturn

import psutil

from . import entry, memory, processes, spawning, witness
from .channel import Channel, pair
from .job import Project
from .wakeups import Wakeups

_SPARES = 2  # at rest
_MOST_SPARES = 8  # while tasks start one after another


class Template:
    """The launcher's form that forks, from the main thread. Runs in its process."""

    method = "template"

    def __init__(self, own: Channel, bell: Wakeups, handlers: dict[int, Any]) -> None:
        """`own` and `bell` are the launcher's; the project has set the `handlers`."""
        self._own = own
        self._bell = bell
        self._handlers = handlers
        self._spares: deque[tuple[int, Channel]] = deque()
        # What the project's imports have started is nobody's orphan.
        self._companions = processes.children(os.getpid())
        witness.write_lines_at_once()
        self._heap = memory.of_process(os.getpid())
        gc.collect()
        gc.freeze()  # so that a collection in a child copies no pages of ours
        processes.collapse_heap()
        self._has_native_threads = processes.threads(os.getpid()) > 1
        self._resident = processes.resident(os.getpid())  # at the last ping
        self._started = 0  # since spares were last made

    def readable(self) -> list[Channel]:
        """Return what may have something to say: a spare never does."""
        return []

    def own(self) -> set[int | None]:
        """Return the processes that are no orphans of tasks."""
        return {*self._companions, *(pid for pid, _ in self._spares)}

    def start(self, end: socket.socket, others: list[int]) -> tuple[int, Any]:
        """Give `end` to a spare, or fork; return the pid.

        `others` are the descriptors of other tasks' ends: a fork closes them.
        Raises OSError when no more processes or memory are to be had.
        """
        self._started += 1
        while self._spares:
            pid, control = self._spares.popleft()
            with contextlib.closing(control):
                if not processes.is_dead(pid):
                    control.send("take", fds=[end.detach()])
                    return pid, None
            os.waitpid(pid, 0)
        with end:
            return self._fork(lambda: entry.run_forked(end), others), None

    def work(self, channel: Channel) -> None:
        """Have spares at hand, each waiting for a task.

        The more tasks start, the more of them, one fork right after another: what runs
        here in between has to be copied once more for each fork.
        """
        if len(self._spares) >= _SPARES and not self._started:
            return
        for spare in list(self._spares):
            if processes.is_dead(spare[0]):
                os.waitpid(spare[0], 0)
                spare[1].close()
                self._spares.remove(spare)
        wanted = min(max(_SPARES, 2 * self._started), _MOST_SPARES)
        self._started = 0
        if len(self._spares) >= _SPARES:
            return
        try:
            while len(self._spares) < wanted:
                self._fork_spare()
        except OSError:
            return  # whoever needs a process will say so

    def close(self) -> None:
        for _, control in self._spares:
            control.close()

    def grown_by(self) -> int:
        """Return how many bytes more its heap has than when it began to fork."""
        self._resident = processes.resident(os.getpid())
        return memory.of_process(os.getpid()) - self._heap

    def inherited(self) -> int:
        """Return how many resident bytes a process has from its first moment."""
        return self._resident

    def _fork_spare(self) -> None:
        ours, theirs = pair()
        with theirs:
            try:
                pid = self._fork(lambda: entry.wait_forked(theirs), [ours.fileno()])
            except OSError:
                ours.close()
                raise
        self._spares.append((pid, Channel(ours)))

    def _fork(self, run: Callable[[], NoReturn], unwanted: list[int]) -> int:
        """Fork a child that does nothing but `run`, without the `unwanted` descriptors.

        Returns its pid.
        """
        entry.flush()
        with spawning.signals_blocked():
            with self._undisturbed():
                pid = os.fork()
            if pid:
                return pid
            try:
                for fd in unwanted:
                    os.close(fd)
                self._become_child()
                run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def _undisturbed(self) -> contextlib.AbstractContextManager[Any]:
        """Hear no warning of native threads: they have been told of at start."""
        if self._has_native_threads:
            return warnings.catch_warnings(action="ignore", category=DeprecationWarning)
        return contextlib.nullcontext()

    def _become_child(self) -> None:
        """Inherit nothing that is the launcher's own. Runs in the child."""
        self._bell.forget()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._own.close()
        for _, control in self._spares:
            control.close()
        process._children.clear()  # type: ignore[attr-defined]
        numpy_random: Any = sys.modules.get("numpy.random")
        if numpy_random is not None:
            numpy_random.seed()  # Python's own does that by itself


def become(project: Project) -> dict[str, Any]:
    """Become the project; return what it says of itself, or raise what it raises."""
    entry.prepare(project)
    found = entry.named(project.discover)() if project.discover else {}
    if project.warm:
        entry.named(project.warm)()
    return dict(found)


def threads() -> list[str]:
    """Return the Python threads that the project's imports have left running."""
    main = threading.main_thread()
    return [thread.name for thread in threading.enumerate() if thread is not main]


def doubts(channel: Channel) -> list[str]:
    """Return what children inherit that they had better not."""
    found = []
    native = processes.threads(os.getpid()) - threading.active_count()
    if native > 0:
        found.append(
            f"The project's imports have left {native} native threads running, which "
            "forked tasks do not have. If tasks hang, use --start-method spawn."
        )
    if sockets := _sockets(channel):
        found.append(
            "The project's imports have left sockets open, which every task shares: "
            f"{', '.join(sockets)}. Open them in the task, or use --start-method spawn."
        )
    return found


def _sockets(channel: Channel) -> list[str]:
    found = []
    try:
        connections = psutil.Process().net_connections(kind="all")
    except (psutil.Error, OSError, RuntimeError):  # /proc/net tells nothing
        return []
    for connection in connections:
        if connection.fd not in (channel.fileno(), -1):
            peer: Any = connection.raddr or connection.laddr or "a socket pair"
            where = ":".join(map(str, peer)) if isinstance(peer, tuple) else peer
            found.append(f"{where} (file descriptor {connection.fd})")
    return found
