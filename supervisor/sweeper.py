"""What is left of dead processes, and is it gone?"""

import contextlib
import os
import select

from . import clock, processes, spawning

EVERY = 0.02  # seconds between two looks at what was killed
_LONGEST = 10.0  # seconds at the very end, for what hangs in the kernel


class Sweeper:
    """Kills what carries a dead runner's mark, and reaps what this process adopts.

    Killing takes a moment: `sweep` is called again and again until nothing is left.
    """

    def __init__(self) -> None:
        self._not_ours = processes.children(os.getpid())  # somebody else waits for them
        self._dead: dict[str, tuple[int, int]] = {}

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
        """Kill what carries a mark, but for what is spared; is there something left?"""
        spared = spared | {spawning.resource_tracker_pid()}
        left = set(processes.marked(runner)) - spared
        processes.kill_all(left)
        return bool(left)

    def reap(self, awaited: set[int | None]) -> None:
        """Reap adopted orphans; never those whose status somebody waits for."""
        awaited = awaited | self._not_ours | {spawning.resource_tracker_pid()}
        for pid in processes.children(os.getpid()) - awaited:
            with contextlib.suppress(ChildProcessError):  # its own starter reaped it
                os.waitpid(pid, os.WNOHANG)

    def finish(self, runner: str) -> bool:
        """Wait until nothing of a runner is left; False if that takes too long.

        Called after the loop, when there is nothing left to enforce.
        """
        give_up_at = clock.now() + _LONGEST
        while self.leftovers(runner, spared=set()):
            if clock.now() >= give_up_at:
                return False
            select.select([], [], [], EVERY)
            self.reap(set())
        self.reap(set())
        return True
