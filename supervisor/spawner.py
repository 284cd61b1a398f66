"""How is a task's process started as a fresh interpreter? Nothing is shared with it.

The spawner holds nothing of the project: what tasks there are, a discovery child says.
"""

import os
import socket
from typing import Any

from . import entry, processes, spawning
from .channel import Channel, pair
from .job import Project


class Spawner:
    """The launcher's form for code that must not be forked. Runs in its process."""

    method = "spawn"

    def __init__(self, project: Project) -> None:
        self._project = project
        self._discovery: Channel | None = None
        self._discovery_pid: int | None = None

    def discover(self) -> None:
        """Start the process that answers `ready` or `failed`."""
        ours, theirs = pair()
        self._discovery = Channel(ours)
        self._discovery_pid = spawning.start(entry.discover, theirs, self._project).pid
        theirs.close()

    def readable(self) -> list[Channel]:
        """Return what may have something to say."""
        return [] if self._discovery is None else [self._discovery]

    def own(self) -> set[int | None]:
        """Return the processes that are no orphans of tasks."""
        return {self._discovery_pid}

    def start(self, end: socket.socket, others: list[int]) -> tuple[int, Any]:
        """Start a task's process; return its pid, and what has to outlive it.

        It inherits no descriptors, so those of `others` are no matter here.
        Raises OSError when no more processes, memory or descriptors are to be had.
        """
        with end:
            process = spawning.start(entry.run, end, self._project)
        assert process.pid is not None
        return process.pid, process

    def work(self, channel: Channel) -> None:
        """Pass on what the discovery child says; its silent death is an answer too."""
        if self._discovery_pid is not None and processes.is_dead(self._discovery_pid):
            os.waitpid(self._discovery_pid, 0)
            self._discovery_pid = None
        if self._discovery is None:
            return
        for answer in self._discovery.receive():
            channel.send(answer.pop("kind"), **answer, method=self.method, warnings=[])
            self.close()
            return
        if self._discovery.ended:
            text = "The process that discovers the tasks died without a word.\n"
            channel.send("failed", traceback=text)
            self.close()

    def grown_by(self) -> int:
        """Return how many bytes more there are to be inherited than at first: none."""
        return 0

    def inherited(self) -> int:
        """Return how many resident bytes a process has from its first moment: none."""
        return 0

    def close(self) -> None:
        if self._discovery is not None:
            self._discovery.close()
            self._discovery = None
