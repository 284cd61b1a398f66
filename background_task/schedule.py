"""When is a task to run, how urgent is it, and what if it waits already?"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from django.utils import timezone

When = int | float | timedelta | datetime


class TaskSchedule:
    """When a task runs, how urgent it is, and what happens if it is there already.

    `run_at` is a moment, or a time from now: a timedelta, or a number of seconds.
    `action` is one of SCHEDULE (another row), RESCHEDULE_EXISTING (move a waiting
    row of the same name and arguments) and CHECK_EXISTING (let it be). None means: not
    said. Raises TypeError for other kinds of `run_at`.
    """

    SCHEDULE = 0
    RESCHEDULE_EXISTING = 1
    CHECK_EXISTING = 2

    def __init__(
        self,
        run_at: When | None = None,
        priority: int | None = None,
        action: int | None = None,
    ) -> None:
        self._run_at = _checked_when(run_at)
        self._priority = priority
        self._action = action

    @classmethod
    def create(cls, schedule: Any) -> "TaskSchedule":
        """Return a TaskSchedule of any form in which a schedule may be given.

        None, seconds, a timedelta, a datetime, a dict with `run_at`, `priority` and
        `action`, or a TaskSchedule. Raises TypeError for anything else.
        """
        if isinstance(schedule, TaskSchedule):
            return schedule
        if isinstance(schedule, Mapping):
            if other := set(schedule).difference(_SCHEDULE_KEYS):
                raise TypeError(
                    f"A schedule says {', '.join(_SCHEDULE_KEYS)}, and nothing of "
                    f"{', '.join(sorted(map(repr, other)))}"
                )
            return TaskSchedule(**schedule)
        return TaskSchedule(run_at=schedule)

    def merge(self, schedule: "TaskSchedule") -> "TaskSchedule":
        """Return this schedule, with what it does not say taken from another."""
        return TaskSchedule(
            run_at=schedule._run_at if self._run_at is None else self._run_at,
            priority=schedule._priority if self._priority is None else self._priority,
            action=schedule._action if self._action is None else self._action,
        )

    @property
    def run_at(self) -> datetime:
        """The moment; counted from now if a time was given, now if nothing was."""
        if isinstance(self._run_at, datetime):
            return self._run_at
        if isinstance(self._run_at, timedelta):
            return timezone.now() + self._run_at
        return timezone.now() + timedelta(seconds=self._run_at or 0)

    @property
    def priority(self) -> int:
        """The priority; 0 if it was not said."""
        return self._priority or 0

    @property
    def action(self) -> int:
        """The action; SCHEDULE if it was not said."""
        return self._action or TaskSchedule.SCHEDULE

    def __repr__(self) -> str:
        return f"TaskSchedule(run_at={self._run_at}, priority={self._priority})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskSchedule):
            return NotImplemented
        return self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())

    def _said(self) -> tuple[When | None, int | None, int | None]:
        return self._run_at, self._priority, self._action


# Whatever `TaskSchedule.create` takes.
ScheduleForm = When | Mapping[str, Any] | TaskSchedule | None

_SCHEDULE_KEYS = ("run_at", "priority", "action")


def _checked_when(when: Any) -> When | None:
    # A bool is an int, and a date is none of these: both are mistakes here.
    known = when is None or isinstance(when, int | float | timedelta | datetime)
    if known and not isinstance(when, bool):
        return cast("When | None", when)
    raise TypeError(
        f"A schedule is seconds, a timedelta, a datetime, a dict with any of "
        f"{', '.join(_SCHEDULE_KEYS)}, or a TaskSchedule, not {when!r}"
    )
