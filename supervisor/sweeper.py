"""What is left of dead processes, and is it gone?"""

import contextlib
import logging
import os
import select
from collections.abc import Iterable

from . import clock, processes, spawning

logger = logging.getLogger("background_task.supervisor")

EVERY = 0.02  # seconds between two looks at what was killed
_PATIENCE = 5.0  # seconds for what was killed to be dead


class Remains:
    """Processes that are to die: killed again and again, until they are dead.

    One that is still there after 5 s is given up, and `survivors` has it once. It is
    stuck in the kernel, where it will run nothing more of its program, though it may
    hold memory, locks and files until the kernel lets go of it; or it has become
    another user's and cannot be killed: then it goes on, beside the next try too.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # when it was killed first
        self._zombies: set[int] = set()
        self._given_up: set[int] = set()

    def kill(self, pids: Iterable[int]) -> bool:
        """Kill all there are; return whether to look again.

        What they have started becomes a child of this process when they die, so that
        after a death it is always: look again. They are left to be reaped; a zombie
        that cannot be, since its tracer holds it, is as dead as others.
        """
        pids, now = set(pids), clock.now()
        self._since = {pid: self._since.get(pid, now) for pid in pids}
        self._given_up &= pids
        processes.kill_all(pids)
        zombies = {pid for pid in pids if not processes.is_alive(pid)}
        new_zombies, self._zombies = zombies - self._zombies, zombies
        dying = {pid for pid in pids - zombies if now - self._since[pid] < _PATIENCE}
        return bool(new_zombies or dying)

    def survivors(self) -> list[str]:
        """Return, once, what was given up: its pids and names."""
        new = self._overdue() - self._given_up
        self._given_up |= new
        return [f"{pid} ({processes.name(pid)})" for pid in sorted(new)]

    def _overdue(self) -> set[int]:
        long_ago = clock.now() - _PATIENCE
        overdue = {pid for pid, since in self._since.items() if since <= long_ago}
        return overdue - self._zombies


def tell(survivors: list[str]) -> None:
    """Say what could not be killed, if there is something."""
    if survivors:
        logger.error(
            "Killed, and still there after %g s: %s. They are another user's, or stuck "
            "in the kernel; going on without waiting for them",
            _PATIENCE,
            ", ".join(survivors),
        )


def reap(pids: Iterable[int]) -> None:
    """Reap those children of this process that have died."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):  # its own starter reaped it
            os.waitpid(pid, os.WNOHANG)


class Sweeper:
    """Kills what carries a dead runner's mark, and reaps what this process adopts.

    Killing takes a moment: it is called again and again until nothing is left.
    """

    def __init__(self) -> None:
        self._not_ours = processes.children(os.getpid())  # somebody else waits for them
        self._dead: dict[str, tuple[int, int]] = {}
        self._remains: dict[str, Remains] = {}  # by runner

    @property
    def busy(self) -> bool:
        return bool(self._dead)

    def add(self, runner: str, pid: int, started: int) -> bool:
        """Sweep a dead runner, by name; False if that is being done already."""
        new = runner not in self._dead
        self._dead[runner] = pid, started
        return new

    def sweep_dead_runners(self) -> list[str]:
        """Kill what they left; return those of which nothing is left any more."""
        swept = []
        for runner, (pid, started) in list(self._dead.items()):
            processes.kill_supervisor(pid, started)
            if not self.leftovers(runner, spared=set()):
                swept.append(runner)
                del self._dead[runner]
        return swept

    def leftovers(self, runner: str, spared: set[int | None]) -> bool:
        """Kill what carries a mark, but for what is spared; is there something left?

        What could not be killed is told, and not waited for: see `Remains`.
        """
        return self._kill(runner, self._marked(runner, spared))

    def clear(self, runner: str, spared: set[int | None]) -> bool:
        """Kill what a launcher that is gone has left; is there something left?

        What it had started is this process's child by now, and what that leaves behind
        will be, whatever mark it carries. So it is all killed, but for what is spared
        and what was here before. As PID 1 that may hit a stranger's orphan, which
        nothing tells apart from a task's.
        """
        left = self._marked(runner, spared) | self._adopted(spared)
        return self._kill(runner, left)

    def _kill(self, runner: str, pids: set[int]) -> bool:
        remains = self._remains.setdefault(runner, Remains())
        look_again = remains.kill(pids)
        if not look_again:
            tell(remains.survivors())
            del self._remains[runner]
        return look_again

    def _marked(self, runner: str, spared: set[int | None]) -> set[int]:
        return (
            set(processes.marked(runner)) - spared - {spawning.resource_tracker_pid()}
        )

    def _adopted(self, awaited: set[int | None]) -> set[int]:
        spared = awaited | self._not_ours | {spawning.resource_tracker_pid()}
        return processes.children(os.getpid()) - spared

    def reap(self, awaited: set[int | None]) -> None:
        """Reap adopted orphans; never those whose status somebody waits for."""
        reap(self._adopted(awaited))

    def finish(self, runner: str, launcher_left: bool) -> None:
        """Wait until nothing of a runner is left that can be killed.

        `launcher_left`: the launcher has left by itself, and so has nothing behind it.
        Called after the loop, when there is nothing left to enforce.
        """
        kill = self.leftovers if launcher_left else self.clear
        while kill(runner, spared=set()):
            select.select([], [], [], EVERY)
            self.reap(set())
        self.reap(set())
