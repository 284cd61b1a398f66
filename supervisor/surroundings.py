"""What does a process have to have back before it may take another job?"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from . import processes

# A thread that was joined may be there still for a moment.
_LOOKS, _LOOK_EVERY = 20, 0.001  # seconds


class Surroundings:
    """What a process has before its first job. Runs in the child, in its main thread.

    Of what a job may change it is what belongs to the process and is cheap to restore;
    what belongs to modules (globals, the environment, open files) stays changed.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._handlers: dict[int, Any] = {
            number: signal.getsignal(number) for number in signal.valid_signals()
        }
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._folder = _folder()
        self._user = _user()
        self._threads = processes.threads(self._pid)
        self._children = processes.children(self._pid)

    def restore(self) -> bool:
        """Have them as they were; return False if that cannot be."""
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        try:
            for number, handler in self._handlers.items():
                if signal.getsignal(number) != handler:
                    signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            os.umask(self._umask)
            if _folder() != self._folder:
                os.chdir(self._folder)
        except (OSError, TypeError):  # the folder is gone; the handler was C's
            return False
        return _user() == self._user

    def is_alone(self) -> bool:
        """Are there no more threads and processes than before, zombies included?"""
        if not processes.children(self._pid) <= self._children:
            return False
        return _soon(lambda: processes.threads(self._pid) <= self._threads)


def _soon(condition: Callable[[], bool]) -> bool:
    for _ in range(_LOOKS):
        if condition():
            return True
        time.sleep(_LOOK_EVERY)
    return False


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _user() -> tuple[int, ...]:
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid()
