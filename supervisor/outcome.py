"""How can a try end? A closed set; each outcome's text becomes the row's last_error."""

import math
import signal
from dataclasses import asdict, dataclass
from typing import Any

MIB = 1024 * 1024


def size_text(memory: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{memory / MIB:.10g} MiB"


@dataclass(frozen=True, slots=True)
class Succeeded:
    """It reported success, before any limit had run out."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Failed:
    """It reported an exception; `permanent` ones are not tried again."""

    error: str
    permanent: bool = False

    def __str__(self) -> str:
        return self.error


@dataclass(frozen=True, slots=True)
class TimedOut:
    """It was stopped at its time limit."""

    seconds: float
    limit_name: str
    stalled: bool = False  # it had not told of any progress for so long
    permanent: bool = False

    def __str__(self) -> str:
        how = "no progress for" if self.stalled else "after"
        comma = ": " if self.stalled else " "
        return f"Stopped{comma}{how} {self.seconds:g} s ({self.limit_name})"


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """It was stopped at its memory limit; both figures are bytes of its whole tree.

    With an `error` it has stopped itself, by a MemoryError at a hard limit. With a
    `container_held` it was the largest when its container, whose limit it is, was
    nearly full.
    """

    used: int
    limit: int
    limit_name: str
    permanent: bool = False
    error: str = ""
    container_held: int = 0

    def __str__(self) -> str:
        if self.container_held:
            return (
                f"Stopped at {self.used / MIB:.0f} MiB of memory, the most of all "
                f"tasks, when the container held {self.container_held / MIB:.0f} MiB "
                f"of the {size_text(self.limit)} that it may ({self.limit_name})"
            )
        if self.error:
            limit = f"{size_text(self.limit)} ({self.limit_name})"
            return f"MemoryError at the hard limit of {limit}\n{self.error}"
        return (
            f"Stopped at {math.ceil(self.used / MIB)} MiB of memory: over the limit of "
            f"{size_text(self.limit)} ({self.limit_name})"
        )


@dataclass(frozen=True, slots=True)
class Crashed:
    """It is gone without a word: `exitcode` as Python has it, negative for a signal."""

    exitcode: int | None
    while_starting: bool = False
    text: str = ""  # instead of what the exit code says

    def __str__(self) -> str:
        start = "Crashed while starting" if self.while_starting else "Crashed"
        return f"{start}: {self.text or self._how()}"

    def _how(self) -> str:
        if self.exitcode is None:
            return "its launcher died, and the task was killed with it"
        if self.exitcode >= 0:
            return f"the process exited with code {self.exitcode} without a report"
        if -self.exitcode == signal.SIGKILL:
            return (
                "the process was killed by SIGKILL, not by its supervisor; "
                "the kernel may have been out of memory"
            )
        return f"the process was killed by {_signal_name(-self.exitcode)}"


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody was watching: its supervisor is gone. Made by rescue and comparison."""

    reason: str

    def __str__(self) -> str:
        return f"Lost: {self.reason}"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A person stopped it."""

    by: str

    def __str__(self) -> str:
        return f"Cancelled by {self.by}"


@dataclass(frozen=True, slots=True)
class Released:
    """It was stopped, or never begun, through no fault of its own: costs no attempt."""

    reason: str
    ahead: bool = False  # it was claimed ahead of time: nothing is wrong

    def __str__(self) -> str:
        return f"Released: {self.reason}"


Outcome = (
    Succeeded | Failed | TimedOut | OutOfMemory | Crashed | Lost | Cancelled | Released
)

_KINDS: dict[str, type[Outcome]] = {
    kind.__name__: kind
    for kind in (
        Succeeded,
        Failed,
        TimedOut,
        OutOfMemory,
        Crashed,
        Lost,
        Cancelled,
        Released,
    )
}


def to_message(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as plain data; `from_message` is the way back."""
    return {"outcome": type(outcome).__name__, **asdict(outcome)}


def from_message(message: dict[str, Any]) -> Outcome:
    """Return the outcome that `to_message` made plain."""
    fields = dict(message)
    return _KINDS[fields.pop("outcome")](**fields)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {number}"
