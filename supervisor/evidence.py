"""What is known of a try, beside how it ended?"""

from dataclasses import asdict, dataclass
from typing import Any

from .outcome import Outcome, from_message, to_message


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen of a try's process. Moments are seconds since the epoch."""

    started: float | None = None  # the first moment of the task
    ended: float | None = None
    pid: int | None = None
    exitcode: int | None = None  # None: it goes on, or nobody saw
    cpu: float | None = None  # seconds
    peak: int | None = None  # bytes, of its whole tree
    output: str = ""
    output_size: int = 0  # bytes, before anything was left out
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a try ended, and what is known of it."""

    outcome: Outcome
    evidence: Evidence = Evidence()
    sessions: tuple[dict[str, Any], ...] = ()  # that it has left behind elsewhere

    def to_message(self) -> dict[str, Any]:
        return {
            "outcome": to_message(self.outcome),
            "evidence": asdict(self.evidence),
            "sessions": self.sessions,
        }

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Ended":
        evidence = Evidence(**message["evidence"])
        sessions = tuple(message["sessions"])
        return cls(from_message(message["outcome"]), evidence, sessions)


def cleaned(text: str) -> str:
    """Return a text as every database can store it: no NUL, no lone surrogate."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
