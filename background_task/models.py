"""The rows: tasks that wait or run, tasks that ended, and who runs them."""

import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import Any, Self

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models, router
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from . import policies, repeats, retries, wakeups
from .clock import DatabaseTime
from .exceptions import is_permanent, traceback_text
from .indexes import BY_NAME, BY_PRIORITY, BY_QUEUE, WaitingIndex
from .managers import CompletedTaskQuerySet, TaskManager, TaskQuerySet
from .served import Served

__all__ = [
    "Attempt",
    "CompletedTask",
    "CompletedTaskQuerySet",
    "Control",
    "Runner",
    "Task",
    "TaskManager",
    "TaskQuerySet",
]


logger = logging.getLogger(__name__)

_CLAIM = frozenset({"locked_by", "locked_at"})
# What a task takes over from the one that it repeats, or tries again.
_CALL = (
    *("task_name", "task_params", "task_hash", "verbose_name", "priority", "queue"),
    *("repeat", "repeat_until", "creator_content_type_id", "creator_object_id"),
    "max_run_time",
)


class Runner(models.Model):
    """A running `process_tasks`: who it is, and until when it is trusted to live.

    `Task.locked_by` holds its id. The row is made, renewed and removed by the runner's
    bookkeeper; a runner whose row is gone must not touch a task any more.
    """

    id = models.CharField(_("id"), max_length=64, primary_key=True)
    # The host's name, for people.
    host = models.CharField(_("host"), max_length=255)
    # Boot id, pid namespace, user: in one place a pid means a process that is in reach.
    place = models.CharField(_("place"), max_length=190, db_index=True)
    pid = models.IntegerField(_("pid"))
    pid_started = models.BigIntegerField(_("pid started"))
    started_at = models.DateTimeField(_("started at"))
    # Written with the database's clock alone, since hosts disagree.
    trusted_until = models.DateTimeField(_("trusted until"))
    version = models.CharField(_("version"), max_length=32, default="")

    # Seconds; slots; the queues that it serves (none: all) and does not. NULL: an older
    # version's.
    lease = models.FloatField(_("lease"), null=True)
    slots = models.IntegerField(_("slots"), null=True)
    queues = models.JSONField(_("queues"), null=True)
    excluded_queues = models.JSONField(_("excluded queues"), null=True)
    # True once it claims no more.
    draining = models.BooleanField(_("draining"), null=True)
    # What has run for a second: see `Running`.
    running = models.JSONField(_("running"), null=True)

    class Meta:
        verbose_name, verbose_name_plural = _("runner"), _("runners")

    def __str__(self) -> str:
        return f"{self.host} {self.pid} ({self.id})"

    @property
    def served(self) -> Served:
        """The queues that it takes tasks of."""
        return Served(
            frozenset(self.queues or ()), frozenset(self.excluded_queues or ())
        )

    @property
    def last_seen(self) -> datetime | None:
        """When the lease was last renewed, by the database's clock."""
        if self.lease is None:
            return None
        return self.trusted_until - timedelta(seconds=self.lease)

    def is_trusted(self) -> bool:
        """Return whether the lease still runs, by the database's clock."""
        alive = Runner.objects.filter(pk=self.pk, trusted_until__gt=DatabaseTime())
        return alive.exists()


class Control(models.Model):
    """What a person has asked of runners, until it is done: see `control`.

    A pause stands until it is taken back, whichever runners come and go.
    """

    class Verb(models.TextChoices):
        """What may be asked. The target is named in brackets."""

        STOP = "stop", "stop"  # a task's id
        PAUSE = "pause", "pause"  # a queue
        DRAIN = "drain", "drain"  # a runner's id
        OUTPUT = "output", "output"  # a task's id
        STACK = "stack", "stack"  # a task's id

    id = models.BigAutoField(_("id"), primary_key=True)
    verb = models.CharField(_("verb"), max_length=16, choices=Verb.choices)
    target = models.CharField(_("target"), max_length=190)
    by = models.CharField(_("by"), max_length=150)
    at = models.DateTimeField(_("at"))
    answer = models.TextField(_("answer"), blank=True, default="")  # JSON

    class Meta:
        verbose_name, verbose_name_plural = _("control"), _("controls")
        constraints = (
            models.UniqueConstraint(
                fields=["verb", "target"], name="bgtask_control_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.verb} {self.target}"


class BaseTask(models.Model):
    """What Task and CompletedTask have in common: upstream's columns, and more."""

    HOURLY = 3600
    DAILY = 24 * HOURLY
    WEEKLY = 7 * DAILY
    EVERY_2_WEEKS = 2 * WEEKLY
    EVERY_4_WEEKS = 4 * WEEKLY
    NEVER = 0
    REPEAT_CHOICES = (
        (HOURLY, _("hourly")),
        (DAILY, _("daily")),
        (WEEKLY, _("weekly")),
        (EVERY_2_WEEKS, _("every 2 weeks")),
        (EVERY_4_WEEKS, _("every 4 weeks")),
        (NEVER, _("never")),
    )

    # Which function, with which arguments (JSON), and a hash of both.
    task_name = models.CharField(_("task name"), max_length=190, db_index=True)
    task_params = models.TextField(_("task params"))
    task_hash = models.CharField(_("task hash"), max_length=40, db_index=True)
    verbose_name = models.CharField(
        _("verbose name"), max_length=255, null=True, blank=True
    )

    priority = models.IntegerField(_("priority"), default=0, db_index=True)
    # When it is to run; of a completed task, when it ended.
    run_at = models.DateTimeField(_("run at"), db_index=True)
    # Seconds from one planned run to the next.
    repeat = models.BigIntegerField(_("repeat"), choices=REPEAT_CHOICES, default=NEVER)
    repeat_until = models.DateTimeField(_("repeat until"), null=True, blank=True)
    queue = models.CharField(
        _("queue"), max_length=190, db_index=True, null=True, blank=True
    )

    # Tries that have ended, and how the last one failed.
    attempts = models.IntegerField(_("attempts"), default=0, db_index=True)
    failed_at = models.DateTimeField(
        _("failed at"), db_index=True, null=True, blank=True
    )
    last_error = models.TextField(_("last error"), blank=True)

    # The claim: a runner's id, or the pid of an in-process runner, and since when.
    locked_by = models.CharField(
        _("locked by"), max_length=64, db_index=True, null=True, blank=True
    )
    locked_at = models.DateTimeField(
        _("locked at"), db_index=True, null=True, blank=True
    )

    # Any object; the content type is a column of the concrete models.
    creator_object_id = models.PositiveIntegerField(
        _("creator object id"), null=True, blank=True
    )
    creator = GenericForeignKey("creator_content_type", "creator_object_id")

    # What a repetition is counted from, if `run_at` is not where it was planned: it is
    # a retry's, a person has had it run sooner, or the clock skipped the hour. Of a
    # task that failed and ended its chain, where it was planned.
    repeat_from = models.DateTimeField(
        _("repeat from"), null=True, blank=True, editable=False
    )

    # Seconds that a try may take, said by the call that enqueued it.
    max_run_time = models.FloatField(_("max run time"), null=True, blank=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.verbose_name or self.task_name}"

    def has_error(self) -> bool:
        """Return whether the last try left an error."""
        return bool(self.last_error)

    has_error.boolean = True  # type: ignore[attr-defined]

    def locked_by_pid_running(self) -> bool | None:
        """Return whether the one who holds the task is alive; None if nobody does.

        A runner with a row is asked by its lease. A number is looked up among the
        processes of this host, whichever host it came from: upstream's rule.
        """
        if not self.locked_by:
            return None
        runner = Runner.objects.filter(pk=self.locked_by).first()
        if runner is not None:
            return runner.is_trusted()
        return _is_running(self.locked_by)

    locked_by_pid_running.boolean = True  # type: ignore[attr-defined]

    def another(self, **columns: Any) -> "Task":
        """Return a new task, not saved, that calls the same; these columns besides."""
        copied = {name: getattr(self, name) for name in _CALL}
        return Task(**copied, **columns)


class Task(BaseTask):
    """A task that waits, or runs if it is locked."""

    creator_content_type = models.ForeignKey(
        ContentType,
        verbose_name=_("creator content type"),
        null=True,
        blank=True,
        related_name="background_task",
        on_delete=models.CASCADE,
    )

    # What the try that runs says of itself: see `current_task.progress`.
    progress_done = models.BigIntegerField(_("progress done"), null=True, blank=True)
    progress_total = models.BigIntegerField(_("progress total"), null=True, blank=True)
    progress_message = models.CharField(
        _("progress message"), max_length=200, null=True, blank=True
    )

    objects = TaskManager()

    class Meta:
        verbose_name, verbose_name_plural = _("task"), _("tasks")
        db_table = "background_task"
        permissions = (("control_task", "Can run, retry, cancel and stop tasks"),)
        indexes = (  # what a claim reads
            WaitingIndex(fields=["priority", "run_at"], name=BY_PRIORITY),
            WaitingIndex(fields=["queue", "priority", "run_at"], name=BY_QUEUE),
            WaitingIndex(fields=["task_name", "run_at"], name=BY_NAME),
        )

    # The claim as this instance knows its row to have it: what differs was assigned.
    _known_claim: Mapping[str, Any] = MappingProxyType({})

    def save(
        self,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Save; but what the row says of its claim stays, unless this was asked for.

        A task may have been claimed, or given back, since this instance was read: to
        write `locked_by` or `locked_at`, assign it, or name it in `update_fields`. An
        empty `locked_by` means nobody, which is NULL. Raises DatabaseError if the row
        is gone: a task that has ended does not come back.
        """
        if self.__dict__.get("locked_by") == "":
            self.locked_by = None
        here = using is None or using == self._state.db
        has_row = bool(self.pk) and not self._state.adding
        if here and has_row and update_fields is None and not force_insert:
            update_fields = self._fields_to_update()
        saved = _CLAIM if update_fields is None else _CLAIM.intersection(update_fields)
        is_new = self._state.adding
        super().save(
            force_insert=force_insert,
            force_update=force_update,
            using=using,
            update_fields=update_fields,
        )
        self._know_claim(saved)
        if is_new:
            wakeups.notify(self.queue, self._state.db)

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        task = super().from_db(*args, **kwargs)
        task._know_claim(_CLAIM)
        return task

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet[Self] | None = None,
    ) -> None:
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self._know_claim(_CLAIM if fields is None else _CLAIM.intersection(fields))

    def holds_claim(self, locked_by: str | None, locked_at: datetime | None) -> None:
        """Take over the claim that has just been written to the row."""
        self.locked_by, self.locked_at = locked_by, locked_at
        self._know_claim(_CLAIM)

    def _know_claim(self, names: Collection[str]) -> None:
        loaded = {name: self.__dict__[name] for name in names if name in self.__dict__}
        self._known_claim = {**self._known_claim, **loaded}

    def _fields_to_update(self) -> set[str]:
        """Return what was loaded, and of the claim only what was assigned since."""
        fields = {f.attname for f in self._meta.concrete_fields if not f.primary_key}
        known = {
            name
            for name in _CLAIM.intersection(self._known_claim)
            if getattr(self, name) == self._known_claim[name]
        }
        return fields - self.get_deferred_fields() - known

    @property
    def history(self) -> models.QuerySet["Attempt"]:
        """The tries that a runner has recorded, the first one first."""
        return Attempt.of(self.pk, self._state.db)

    def with_id(self) -> str:
        """Return how logs call it, such as `4 (shop.tasks.send_receipt)`."""
        return f"{self.pk} ({self})"

    def params(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and the keyword arguments."""
        args, kwargs = json.loads(self.task_params)
        return args, kwargs

    def lock(self, locked_by: str) -> "Task | None":
        """Claim this task for `locked_by`; return it afresh, or None if it is held."""
        now = timezone.now()
        # Not from a replica, which may not know yet.
        tasks = Task.objects.using(router.db_for_write(Task)).filter(pk=self.pk)
        if not tasks.unlocked(now).update(locked_by=locked_by, locked_at=now):
            return None
        return tasks.first()

    def reschedule(
        self,
        type: type[BaseException] | None,
        err: BaseException,
        traceback: TracebackType | None,
        *,
        permanent: bool = False,
    ) -> None:
        """Record that this try failed: for a later try, or for good if `permanent`.

        Sends `task_rescheduled` or `task_failed` after the commit. Changes nothing if
        the task is no longer locked as this instance says.
        """
        from . import books  # it builds on this module

        entry = books.fail(
            books.Claim.of(self),
            traceback_text(err.with_traceback(traceback)),
            permanent=permanent or is_permanent(err),
        )
        if entry is None:
            logger.warning(
                "Task %s changed hands: failure not recorded", self.with_id()
            )
            return
        for name in ("attempts", "run_at", "repeat_from", "last_error", "failed_at"):
            setattr(self, name, getattr(entry.task, name))
        self.holds_claim(entry.task.locked_by, entry.task.locked_at)
        books.announce(entry)

    def increment_attempts(self) -> None:
        """Count one more try, in this instance and in its row."""
        self.attempts += 1
        Task.objects.filter(pk=self.pk).update(attempts=self.attempts)

    def has_reached_max_attempts(self) -> bool:
        """Return whether the task has been tried as often as it may be."""
        return retries.exhausted(self.attempts, policies.max_attempts(self.task_name))

    def is_repeating_task(self) -> bool:
        """Return whether a success is followed by another run."""
        return self.repeat > self.NEVER

    def create_completed_task(self) -> "CompletedTask":
        """Save and return a CompletedTask with the values of this one, ended now."""
        completed = self.completed_task()
        completed.save(using=self._state.db)
        return completed

    def completed_task(self) -> "CompletedTask":
        """Return what `create_completed_task` saves."""
        values = {
            field.attname: getattr(self, field.attname)
            for field in CompletedTask._meta.concrete_fields
            if field.attname not in {"id", "run_at", "task_id"}
        }
        return CompletedTask(run_at=timezone.now(), task_id=self.pk, **values)

    def create_repetition(self) -> "Task | None":
        """Save and return the next run of a repeating task; None at the chain's end."""
        repetition = self.repetition()
        if repetition is not None:
            repetition.save(using=self._state.db)
        return repetition

    def repetition(self) -> "Task | None":
        """Return what `create_repetition` saves."""
        if not self.is_repeating_task():
            return None
        plan = repeats.next_repetition(
            self.run_at,
            self.repeat,
            timezone.now(),
            self.repeat_until,
            self.repeat_from,
        )
        if plan is None:
            return None
        return self.another(run_at=plan.run_at, repeat_from=plan.counted_from)


class CompletedTask(BaseTask):
    """A task that came to its end: failed for good if `failed_at` is set."""

    creator_content_type = models.ForeignKey(
        ContentType,
        verbose_name=_("creator content type"),
        null=True,
        blank=True,
        related_name="completed_background_task",
        on_delete=models.CASCADE,
    )

    # The id that the task had while it waited and ran; NULL in a row of 1.2.8.
    task_id = models.BigIntegerField(_("task id"), null=True, blank=True)

    objects = CompletedTaskQuerySet.as_manager()

    class Meta:
        verbose_name, verbose_name_plural = _("completed task"), _("completed tasks")
        # Not `db_index`, for which SQLite would copy the table on the way back.
        indexes = (models.Index(fields=["task_id"], name="bgtask_completed_task"),)

    def __str__(self) -> str:
        return f"{super().__str__()} - {self.run_at}"

    @property
    def history(self) -> models.QuerySet["Attempt"]:
        """The tries of this task that a runner has recorded, the first one first."""
        return Attempt.of(self.task_id, self._state.db)


class Attempt(models.Model):
    """How one try of a task went: the evidence that its runner has gathered.

    No foreign key: the task's row goes when it has ended, and this stays.
    """

    class Outcome(models.TextChoices):
        """How a try can end, under the names that logs and texts use."""

        SUCCEEDED = "Succeeded", _("succeeded")
        FAILED = "Failed", _("failed")
        TIMED_OUT = "TimedOut", _("timed out")
        OUT_OF_MEMORY = "OutOfMemory", _("out of memory")
        CRASHED = "Crashed", _("crashed")
        LOST = "Lost", _("lost")
        CANCELLED = "Cancelled", _("cancelled")

    id = models.BigAutoField(_("id"), primary_key=True)
    task_id = models.BigIntegerField(_("task id"), db_index=True)
    task_name = models.CharField(_("task name"), max_length=190)
    number = models.IntegerField(_("number"))  # the first one is 1
    outcome = models.CharField(_("outcome"), max_length=16, choices=Outcome.choices)
    error = models.TextField(_("error"), blank=True)

    # Seconds between the moment it was due and the first one of its function.
    waited = models.FloatField(_("waited"), null=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    ended_at = models.DateTimeField(_("ended at"), db_index=True)

    host = models.CharField(_("host"), max_length=255, blank=True)
    pid = models.IntegerField(_("pid"), null=True)
    runner_id = models.CharField(_("runner id"), max_length=64, blank=True)

    # As Python has it: negative for a signal. NULL: its process goes on, or nobody saw.
    exit_code = models.IntegerField(_("exit code"), null=True)
    peak_memory = models.BigIntegerField(_("peak memory"), null=True)  # bytes
    cpu_seconds = models.FloatField(_("cpu seconds"), null=True)

    # The head and the tail of stdout and stderr, and how many bytes there were.
    output = models.TextField(_("output"), blank=True)
    output_size = models.BigIntegerField(_("output size"), default=0)
    # Of all its threads, when it was stopped or when it crashed.
    stack = models.TextField(_("stack"), blank=True)

    class Meta:
        verbose_name, verbose_name_plural = _("attempt"), _("attempts")
        ordering = ("task_id", "number", "id")
        indexes = (
            models.Index(fields=["outcome", "id"], name="bgtask_attempt_outcome"),
        )

    def __str__(self) -> str:
        text = gettext("try %(number)d of task %(task)d: %(outcome)s")
        about = {"number": self.number, "task": self.task_id, "outcome": self.outcome}
        return text % about

    @classmethod
    def of(cls, task_id: int | None, using: str | None) -> models.QuerySet["Attempt"]:
        """Return what is recorded of a task's tries, the first one first.

        Those from before a retry too, after which their numbers begin with 1 again.
        """
        tries = cls._default_manager.using(using)
        if task_id is None:
            return tries.none()
        return tries.filter(task_id=task_id).order_by("id")

    @property
    def duration(self) -> float | None:
        """Seconds from the first moment of the function to its end."""
        if self.started_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


_LONGEST_ID = 18  # digits, of what a BIGINT can hold


def row_id(text: str) -> int:
    """Return the id that a text is; 0, which no row has, if it is none."""
    is_id = text.isdecimal() and len(text) <= _LONGEST_ID
    return int(text) if is_id else 0


# What a bare pid holds, an in-process runner or one of 1.2.8: it can't be asked.
HELD_BY_PID = models.Q(locked_by__gt="", locked_by__regex="^[0-9]+$")


def _is_running(locked_by: str) -> bool:
    if not locked_by.isdecimal() or int(locked_by) == 0:
        return False
    try:
        os.kill(int(locked_by), 0)
    except PermissionError:  # it lives, and belongs to somebody else
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
