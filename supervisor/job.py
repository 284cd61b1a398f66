"""What is to be run, and what may it use?"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a job may use; None is no limit. The names are told in the outcome."""

    seconds: float | None = None
    seconds_name: str = "MAX_RUN_TIME"
    stall: float | None = None  # seconds without any progress
    stall_name: str = "stall_timeout"
    memory: int | None = None  # bytes
    memory_name: str = "BACKGROUND_TASK_MEMORY_LIMIT"
    hard_memory: bool = False  # allocating more raises MemoryError
    timeout_is_final: bool = False  # what is stopped by time is not tried again
    memory_is_final: bool = False  # nor what is stopped by memory
    grace: float = 5.0  # seconds between the request to stop and the kill
    nice: int = 0  # what the process adds to its niceness


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One try of a task, here and now. Plain data only: it crosses processes."""

    id: int | None  # the task's; None: not a task's
    name: str
    target: str  # "package.module:function", called with (args, context)
    args: Any = field(repr=False)  # JSON
    claim: str  # names this try of the task among all tries
    queue: str | None = None  # the task's
    due: float | None = None  # seconds since the epoch
    limits: Limits = field(default_factory=Limits)

    def to_message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Job":
        return cls(**{**message, "limits": Limits(**message["limits"])})

    def __str__(self) -> str:
        return self.name if self.id is None else f"task {self.id} ({self.name})"

    @property
    def title(self) -> str:
        """What its process is called."""
        return self.name if self.id is None else f"task {self.id} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """How a fresh process becomes the user's project: dotted names and plain data."""

    prepare: str | None = None  # called once with the environment, before any job
    discover: str | None = None  # returns names, listens, ahead, warnings
    warm: str | None = None  # called once in a template, before it forks
    announce: str | None = None  # a job's target: its args are what queues call news
    environment: dict[str, Any] = field(default_factory=dict)
