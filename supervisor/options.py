"""How was the runner asked to work? Resolved once, checked once, then frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .job import Limits

# How many tasks may be claimed ahead for each worker, while they are short. A process
# that is reused has ended eight before the next eight are there.
CLAIMED_AHEAD, CLAIMED_AHEAD_FOR_REUSE = 8, 32

# Of what sends signals about recorded tries: the time is for each of them.
ANNOUNCER = Limits(seconds=60.0, seconds_name="the limit of signal receivers")


class OptionError(ValueError):
    """An option that cannot be had here; the text names it and says what can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the supervisor goes by; all times in seconds."""

    workers: int = 1  # in all pools
    pools: Mapping[str, int] = field(default_factory=dict)  # by queue: its own slots
    ahead: int = CLAIMED_AHEAD  # 0: claim for a free worker only
    tasks_per_process: int = 1
    duration: float = 0.0  # 0 or less: for ever
    until_empty: bool = False
    drain_timeout: float = 25.0
    grace: float = 5.0
    start_timeout: float = 60.0
    lease: float = 30.0
    memory: int | None = None  # bytes: the limit of a task that has none of its own
    memory_budget: int | None = None  # bytes: what running tasks' limits may add up to
    announcer: Limits = field(default_factory=lambda: ANNOUNCER)
