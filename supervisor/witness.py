"""What does a job leave behind for those who ask afterwards: its output, its stack?"""

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile

from .evidence import cleaned
from .output import Capture, Relay

_LONGEST_STACK = 32_768  # bytes

# It asks a process to write its stack down: a signal that hardly anybody else uses.
STACK_SIGNAL: int = (
    signal.SIGRTMAX - 2 if sys.platform == "linux" else getattr(signal, "SIGINFO", 0)
)


class Witness:
    """A job's output and its stack, as the supervisor sees them; nothing blocks.

    The stack is in a file that only the two processes know: it can be read when the
    one that has written it is dead, and takes no part in the job's output.
    """

    def __init__(self, relay: Relay) -> None:
        """Raises OSError when no descriptors are to be had."""
        self._relay = relay
        with contextlib.ExitStack() as undo:
            self._stack = _anonymous_file()
            undo.callback(os.close, self._stack)
            theirs = os.dup(self._stack)
            undo.callback(os.close, theirs)
            self.output = Capture(relay)
            undo.pop_all()
        self._ends = [self.output.theirs, theirs]

    def ends(self) -> list[int]:
        """Return the job's two descriptors, to be sent to its process, once."""
        ends, self._ends = self._ends, []
        return ends

    def stack(self) -> str:
        """Return what its process has written down of where it was."""
        return cleaned(
            os.pread(self._stack, _LONGEST_STACK, 0).decode(errors="replace")
        )

    def forget_stack(self) -> None:
        """Have the next one that it writes down be the only one."""
        os.ftruncate(self._stack, 0)
        os.lseek(self._stack, 0, os.SEEK_SET)  # for its process too, which shares it

    def hand_on_stack(self) -> None:
        """Show it where the output goes, as a crash without us would have done."""
        self._relay.offer(self.stack().encode())

    def close(self) -> None:
        """Close it, and the job's ends if they were not sent."""
        self.output.close()
        for fd in (self._stack, *self.ends()):
            os.close(fd)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("background_task stack")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def begin(output: int, stack: int) -> None:
    """Have stdout and stderr go to one descriptor, and the stack to another.

    Runs in the job's process, once: its later jobs write to the same.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    faulthandler.enable(stack)
    faulthandler.register(STACK_SIGNAL, stack)


def write_lines_at_once() -> None:
    """Have whole lines of stdout go to its descriptor at once, as to a terminal's.

    What a killed process has printed would otherwise be lost with its buffer. Runs in
    a job's process, or in the one that it is forked from.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
