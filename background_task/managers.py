"""The questions one may ask about tasks."""

import json
import logging
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Self

from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import connections, models, router
from django.db.models import Exists, Func, OuterRef, Q
from django.db.models.lookups import In
from django.utils import timezone

from . import wakeups
from .served import Served
from .settings import app_settings

if TYPE_CHECKING:
    from .models import CompletedTask, Task  # noqa: F401

logger = logging.getLogger(__name__)


def params_text(args: Any, kwargs: Any) -> str:
    """Return the arguments as they are stored: JSON, sorted keys, ASCII.

    Byte for byte as upstream wrote it, since `task_hash` is made of it. Raises
    TypeError for what JSON can't hold.
    """
    arguments = (args or (), kwargs or {})
    try:
        return json.dumps(arguments, sort_keys=True)
    except TypeError:
        # Keys of several types have no order before all of them are text.
        return json.dumps(json.loads(json.dumps(arguments)), sort_keys=True)


def hash_text(task_name: str, task_params: str) -> str:
    """Return the hash by which equal tasks find one another; upstream's formula."""
    return sha1(f"{task_name}{task_params}".encode()).hexdigest()


def _creator_filter(creator: models.Model) -> Q:
    content_type = ContentType.objects.get_for_model(creator)
    return Q(creator_content_type=content_type, creator_object_id=creator.pk)


class Letters(Func):
    """A column's text as MySQL compares it when no collation has a say."""

    template = "CAST(CONVERT(%(expressions)s USING utf8mb4) AS BINARY)"
    output_field = models.TextField()


class TaskQuerySet(models.QuerySet["Task"]):
    """Tasks that wait or run."""

    def bulk_create(self, objs: Iterable["Task"], *args: Any, **kwargs: Any) -> Any:
        """Create, as of any model, and tell the runners that listen."""
        tasks = super().bulk_create(objs, *args, **kwargs)
        for queue in {task.queue for task in tasks}:
            wakeups.notify(queue, self.db)
        return tasks

    def created_by(self, creator: models.Model) -> Self:
        """Keep the tasks whose creator is this object, of any model."""
        return self.filter(_creator_filter(creator))

    def unlocked(self, now: datetime) -> Self:
        """Keep the tasks that nobody holds at the moment `now`.

        A lock expires MAX_RUN_TIME after it was taken, unless it names a runner that
        has a row: its supervisor enforces the limits, and rescue frees its tasks.
        """
        return self.filter(Q(locked_by=None) | self._expired(now))

    def locked(self, now: datetime) -> Self:
        """Keep the tasks that somebody holds at the moment `now`."""
        return self.filter(locked_by__isnull=False).exclude(self._expired(now))

    def failed(self) -> Self:
        """Keep the tasks that are marked as failed; they are never run."""
        return self.filter(failed_at__isnull=False)

    def due(self, now: datetime) -> Self:
        """Keep the tasks whose time has come at the moment `now`, held or not."""
        return self.filter(run_at__lte=now, failed_at=None)

    def exactly(self, column: str, values: Collection[str]) -> Self:
        """Keep the tasks that have one of these values in a column, to the letter.

        MySQL's collations take `mail`, `Mail` and `mail ` for one. They are asked too,
        for the sake of their indexes.
        """
        return self.filter(self._exactly(column, values))

    def _exactly(self, column: str, values: Collection[str | None]) -> Q:
        has = Q(**{f"{column}__in": values})
        if connections[self.db].vendor == "mysql":
            has &= Q(In(Letters(column), values))
        return has

    def of_queues(self, served: Served) -> Self:
        """Keep the tasks of the queues that are served, to the letter."""
        tasks = self.exactly("queue", served.queues) if served.queues else self
        if None in served.excluded:
            tasks = tasks.exclude(queue=None)
        if excluded := served.excluded - {None}:
            tasks = tasks.filter(Q(queue=None) | ~self._exactly("queue", excluded))
        return tasks

    def lock_unlocked_rows(self) -> Self:
        """Lock the rows as they are read, and pass over what another has locked.

        As far as the database can: SQLite has one lock for all.
        """
        features = connections[self.db].features
        if not features.has_select_for_update:
            return self
        of = ("self",) if features.has_select_for_update_of else ()
        skip = features.has_select_for_update_skip_locked
        return self.select_for_update(skip_locked=skip, of=of)

    def in_order(self) -> Self:
        """Sort by priority, as the setting says, then the earliest first."""
        priority = f"{app_settings.BACKGROUND_TASK_PRIORITY_ORDERING}priority"
        return self.order_by(priority, "run_at")

    def find_available(self, queue: str | None = None) -> Self:
        """Return the tasks that may run now, the next one first.

        Of `queue` only, if one is given; otherwise of every queue and of none.
        """
        now = timezone.now()
        available = self.unlocked(now).due(now)
        if queue:
            available = available.exactly("queue", [queue])
        return available.in_order()

    def _expired(self, now: datetime) -> Q:
        limit = app_settings.lock_lifetime
        runners = apps.get_model("background_task", "Runner")
        held = Exists(runners._base_manager.filter(pk=OuterRef("locked_by")))
        return Q(locked_at__isnull=False, locked_at__lt=now - limit) & ~Q(held)


_TaskManager = models.Manager.from_queryset(TaskQuerySet)


class TaskManager(_TaskManager["Task"]):
    """`Task.objects`: the questions, and how tasks are made and looked up."""

    def new_task(
        self,
        task_name: str,
        args: Any = None,
        kwargs: Any = None,
        run_at: datetime | None = None,
        priority: int = 0,
        queue: str | None = None,
        verbose_name: str | None = None,
        creator: models.Model | None = None,
        repeat: int | None = None,
        repeat_until: datetime | None = None,
        remove_existing_tasks: bool = False,
    ) -> "Task":
        """Return a task that is not saved yet.

        An empty `queue` is none. `repeat` is in seconds. `remove_existing_tasks`
        deletes, now, the waiting tasks of the same name and arguments, whatever their
        queue. Raises ValueError or TypeError, and deletes nothing, for what could not
        be saved.
        """
        if repeat is True or isinstance(repeat, timedelta):
            raise TypeError(
                f"repeat is {repeat!r}: it must be seconds, such as Task.DAILY"
            )
        if creator is not None and not isinstance(creator, models.Model):
            raise TypeError(f"creator is {creator!r}: it must be a model's object")
        try:
            task_params = params_text(args, kwargs)
        except TypeError as error:
            raise TypeError(f"{task_name}: {error}") from error
        task_hash = hash_text(task_name, task_params)
        task: Task = self.model(
            task_name=task_name,
            task_params=task_params,
            task_hash=task_hash,
            priority=priority,
            run_at=timezone.now() if run_at is None else run_at,
            queue=queue or None,
            verbose_name=verbose_name,
            creator=creator,
            repeat=repeat or self.model.NEVER,
            repeat_until=repeat_until,
        )
        self._check(task, creator)
        if remove_existing_tasks:
            alike = self.filter(task_hash=task_hash, locked_at__isnull=True)
            alike.exclude(failed_at__isnull=False).delete()
        return task

    def _check(self, task: "Task", creator: models.Model | None) -> None:
        database = self._db or router.db_for_write(self.model)
        for name in ("task_name", "queue", "verbose_name"):
            _check_text(task, name)
        for name in ("priority", "repeat"):
            _check_number(task, name, database)
        for name in ("run_at", "repeat_until"):
            _check_moment(task, name)
        _tell_of_repeat(task)
        if creator is not None and creator.pk is not None:  # else save() refuses it
            _check_creator(task, creator, database)

    def get_task(
        self, task_name: str, args: Any = None, kwargs: Any = None
    ) -> TaskQuerySet:
        """Return the tasks of this name and these arguments, held ones included."""
        task_hash = hash_text(task_name, params_text(args, kwargs))
        tasks: TaskQuerySet = self.filter(task_hash=task_hash)
        return tasks

    def drop_task(
        self, task_name: str, args: Any = None, kwargs: Any = None
    ) -> tuple[int, dict[str, int]]:
        """Delete the tasks of this name and these arguments, held ones included."""
        return self.get_task(task_name, args, kwargs).delete()


class CompletedTaskQuerySet(models.QuerySet["CompletedTask"]):
    """Tasks that came to their end, well or badly."""

    def created_by(self, creator: models.Model) -> Self:
        """Keep the tasks whose creator is this object, of any model."""
        return self.filter(_creator_filter(creator))

    def failed(self, within: timedelta | None = None) -> Self:
        """Keep the failed ones, of the time `within` until now if it is given."""
        failed = self.filter(failed_at__isnull=False)
        if within:
            failed = failed.filter(failed_at__gt=timezone.now() - within)
        return failed

    def succeeded(self, within: timedelta | None = None) -> Self:
        """Keep the successful ones, of the time `within` until now if it is given."""
        succeeded = self.filter(failed_at__isnull=True)
        if within:
            succeeded = succeeded.filter(run_at__gt=timezone.now() - within)
        return succeeded


def _field(task: "Task", name: str) -> Any:
    return task._meta.get_field(name)


def _check_text(task: "Task", name: str) -> None:
    """Raise ValueError for a text that some database would refuse, or cut."""
    text = str(getattr(task, name) or "")
    limit = _field(task, name).max_length
    if len(text) > limit:
        raise ValueError(
            f"{name} has {len(text)} characters, and {limit} are the most that can be "
            f"stored: shorten {text[:40]!r}..."
        )


def _check_number(task: "Task", name: str, database: str) -> None:
    """Raise ValueError or TypeError for a number that the database would refuse."""
    field = _field(task, name)
    number = field.get_prep_value(getattr(task, name))
    least, most = connections[database].ops.integer_field_range(
        field.get_internal_type()
    )
    if number is None or not least <= number <= most:
        raise ValueError(
            f"{name} is {number}: it must be a whole number from {least} to {most}"
        )


def _check_moment(task: "Task", name: str) -> None:
    """Make a datetime of a text or a date; raise ValueError for what is no moment."""
    value = getattr(task, name)
    try:
        setattr(task, name, _field(task, name).to_python(value))
    except (TypeError, ValueError, ValidationError) as error:
        raise ValueError(f"{name} is {value!r}: it must be a datetime") from error


def _tell_of_repeat(task: "Task") -> None:
    """Warn of what is written as a chain of repeats, and is none.

    It is no error: 1.2.8 took either and ran such a task once, and what ran under it
    must go on to.
    """
    repeat = int(task.repeat)  # it may be a text
    if repeat < 0:
        logger.warning(
            "Task %s runs once: repeat is %d, and 1 is the least that repeats. Give "
            "the seconds from one run to the next, such as Task.DAILY, or leave it out",
            task.task_name,
            repeat,
        )
    elif not repeat and task.repeat_until is not None:
        logger.warning(
            "Task %s runs once: repeat_until is %s, and there is no repeat. Give "
            "repeat=, such as Task.DAILY, or leave repeat_until out",
            task.task_name,
            task.repeat_until,
        )


def _check_creator(task: "Task", creator: models.Model, database: str) -> None:
    """Raise ValueError if the creator could not be found again by what is stored."""
    field = _field(task, "creator_object_id")
    key, key_field = creator.pk, creator._meta.pk
    least, most = connections[database].ops.integer_field_range(
        field.get_internal_type()
    )
    try:
        number = field.get_prep_value(key)
        if key_field.to_python(number) == key and least <= number <= most:
            return
    except (TypeError, ValueError, OverflowError, ValidationError):
        pass  # no number can be made of this key
    raise ValueError(
        f"{creator._meta.label} {key!r} can't be the creator of a task: its key "
        f"({type(key_field).__name__} {key_field.name!r}) would have to be a whole "
        f"number from {least} to {most}. Leave creator out, and pass the key to the "
        f"function as an argument."
    )
