"""How does a fresh interpreter of ours begin? By multiprocessing's spawn context."""

import contextlib
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import process, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")

# What a terminal or an orchestrator sends to whole groups. Blocked in a new process
# until it has said what it makes of them.
GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP}
# What the launcher handles itself, and its children must not inherit.
OWN_SIGNALS = GROUP_SIGNALS | {signal.SIGCHLD}


def start(target: Callable[..., None], *args: Any) -> SpawnProcess:
    """Start `target(*args)` in a fresh interpreter; it must call `begin()` first.

    Called from a main thread only. Whoever starts a process reaps it, by `wait4` or
    `join`: multiprocessing, which would otherwise take the exit status of any ended
    process at the next start, is made to forget this one.
    """
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    with signals_blocked(), _main_module_hidden():
        started = _SPAWN.Process(target=target, args=args)
        started.start()
    process._children.discard(started)  # type: ignore[attr-defined]
    return started


def begin(blocked: Iterable[signal.Signals] = ()) -> None:
    """Leave the terminal and the signals that came with it. Runs in the new process.

    What is `blocked` stays so: the process has no handler for it yet.
    """
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def turn_deaf() -> None:
    """Ignore the signals that ask to stop: the supervisor alone decides that.

    By a handler and not by SIG_IGN, which the tasks would inherit through exec.
    """
    for number in GROUP_SIGNALS:
        signal.signal(number, lambda number, frame: None)


def resource_tracker_pid() -> int | None:
    """Return the pid of multiprocessing's own helper, if this process started it."""
    return resource_tracker._resource_tracker._pid  # type: ignore[attr-defined, no-any-return]


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Have no signal of a group arrive in a child before it is ready for it."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep the new process from importing the script that this one was started by.

    Nothing of ours is in it, and its cost would be paid by every task.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
