"""How does the supervisor talk to its bookkeeper, and what is that process?

The bookkeeper is a process of its own with the one connection to the queue: when the
database hangs, it hangs, and the limits go on acting. It never touches a process.
"""

import contextlib
import logging
import socket
from dataclasses import dataclass, field
from typing import Any

from setproctitle import setproctitle

from . import clock, spawning
from .aide import Aide, Backoff
from .channel import Channel, Message
from .desk import Desk
from .entry import named
from .evidence import Ended
from .job import Project
from .logrelay import LogRelay
from .processes import TITLE
from .queue import Queue, Runner, paused_text

logger = logging.getLogger("background_task.supervisor")

# It says one of them in every turn that is due to renew the lease.
_SIGNS_OF_LIFE = {"lease", "unavailable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Where the books are kept: a queue by dotted name, with plain data for it."""

    queue: str  # "package.module:function", called with the arguments and the runner
    arguments: dict[str, Any] = field(default_factory=dict)
    lease: float  # seconds
    sleep: float  # seconds: the longest wait between two looks
    until_empty: bool = False  # the runner leaves when nothing is due


class Bookkeeper(Aide):
    """The supervisor's handle on its bookkeeper."""

    name = "bookkeeper"

    def __init__(self, project: Project, books: Books) -> None:
        super().__init__()
        self._project = project
        self._books = books
        # However often it dies, the next one can renew the lease before tasks are
        # stopped for want of it: see lease.py.
        self.backoff = Backoff(books.lease / 4)
        self.unavailable = False  # the queue; a new one does not know better at first
        self.dry = False  # the last look found nothing due
        self.paused = ""  # queues, by people

    def start(self, runner: Runner, *, register: bool) -> None:
        """Start the process; it waits for `holding` before it claims anything."""
        self.dry = False  # by what the former one knew
        self._start(keep_books, self._project, self._books, runner, register)
        self.paused = ""

    def receive(self) -> list[Message]:
        """Return what it says; what shows that it looks after the lease counts."""
        messages = self.channel.receive()
        if any(message["kind"] in _SIGNS_OF_LIFE for message in messages):
            self.heard_at = clock.now()
        for message in messages:
            self._learn_of_queue(message)
        return messages

    def _learn_of_queue(self, message: Message) -> None:
        match message:
            case {"kind": "lease"}:
                self.note_sign_of_life()
            case {"kind": "turn", "dry": dry}:
                self.dry = dry
            case {"kind": "unavailable", "error": str(error)}:
                if not self.unavailable:
                    logger.error("The queue is unavailable: %s", error)
                self.unavailable = True
            case {"kind": "available"}:
                if self.unavailable:
                    logger.warning("The queue is available again")
                self.unavailable = False
            case {"kind": "orders", "paused": paused}:
                self.paused = paused_text(paused)

    def ended(self, claim: str, ended: Ended, *, at_once: bool) -> None:
        """Have the end of a try recorded; `turn` or `refused` answers.

        Not `at_once`: others may be waited for, to be written with it.
        """
        said = ended.to_message()
        self.channel.send("ended", claim=claim, ended=said, at_once=at_once)

    def want(self, pool: str | None, n: int, *, at_once: bool) -> None:
        """Give credit for `n` more jobs of a pool; not `at_once`: some are to start."""
        self.channel.send("want", pool=pool, n=n, at_once=at_once)

    def take_back(self, pool: str | None, n: int) -> None:
        """Take back credit for `n` jobs: some of them may be claimed by now."""
        if self.up:  # a new one has none
            self.channel.send("want", pool=pool, n=-n, at_once=True)


def keep_books(
    end: socket.socket, project: Project, books: Books, runner: Runner, register: bool
) -> None:
    """Be the bookkeeper. Runs in its process."""
    spawning.begin()
    spawning.turn_deaf()
    setproctitle(f"{TITLE} bookkeeper")
    queue: Queue = named(books.queue)(project.environment, books.arguments, runner)
    # The relay comes after the set-up of the project, which configures logging.
    with contextlib.closing(Channel(end)) as channel, LogRelay("background_task"):
        desk = Desk(
            channel,
            queue,
            register,
            lease=books.lease,
            sleep=books.sleep,
            until_empty=books.until_empty,
        )
        try:
            desk.work()
        except Exception:  # when the channel ends, we are not waited for any more
            logger.exception("The bookkeeper failed")
            raise
