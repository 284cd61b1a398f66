"""What can't work, said at start-up, with the thing to do about it."""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.db.models import DO_NOTHING, PROTECT, RESTRICT
from django.db.models.fields.reverse_related import ForeignObjectRel

from . import migrations
from .limits import SettingError
from .names import nearest
from .repeats import repeat_zone
from .settings import AppSettings, app_settings, setting_name

_PREFIX = re.compile("^BACKGROUND_TASKS?_")  # the package's name has an S

MIGRATIONS = frozenset(
    {
        "__init__",
        "0001_initial",
        "0002_auto_20170927_1109",
        "0003_alter_completedtask_id_alter_task_id",
        "0003_auto_20210410_1529",
        "0004_auto_20220202_1721",
        "0005_runner",
        "0006_waiting_indexes",
        "0007_attempt",
        "0008_repeat_from",
        "0009_control",
        "0010_control_permission",
        "0011_retry",
        "0012_control_to_the_letter",
        "0013_attempt_outcome",
    }
)


@register
def check_stray_migrations(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn of migrations that are not ours, in our folder.

    `makemigrations` wrote them there for upstream, and `pip uninstall` leaves them.
    """
    return [
        Warning(
            f"{path} is not a migration of this version of django-background-tasks.",
            hint=f"Delete {path}; `migrate` would find two last migrations.",
            id="background_task.W001",
        )
        for path in _migration_files()
        if path.stem not in MIGRATIONS
    ]


@register
def check_distributions(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Refuse to run on the files of two distributions, mixed in one folder."""
    ours = "django-background-tasks"
    others = sorted(_owners("background_task") - {ours})
    if not others:
        return []
    names = " ".join(others)
    return [
        Error(
            f"The package background_task is installed by {ours} and by {names}, "
            "which overwrite each other's files.",
            # Not by its name: of that the index has no release after 1.2.8.
            hint=f"Run `pip uninstall {names}`, then, in a checkout of {ours}, "
            "`pip install --force-reinstall --no-deps .`",
            id="background_task.E001",
        )
    ]


def _owners(package: str) -> set[str]:
    """Return the distributions that installed files into this package.

    Every `manage.py` command asks, so the lists of files are searched, not parsed.
    """
    from importlib import metadata  # slow to import, and tasks have no use for it

    return {
        re.sub(r"[-_.]+", "-", distribution.name).lower()
        for distribution in metadata.distributions()
        if package in (distribution.read_text("top_level.txt") or "").split()
        or f"\n{package}/" in "\n" + (distribution.read_text("RECORD") or "")
    }


@register
def check_migration_modules(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Refuse to leave our migrations unapplied: columns would be missing."""
    modules = settings.MIGRATION_MODULES
    # Some projects set an object that says only `in` and `[]`. None is fine: tests
    # then make the tables straight from the models.
    if "background_task" not in modules:
        return []
    module = modules["background_task"]
    if module in (None, migrations.__name__):
        return []
    return [
        Error(
            f"MIGRATION_MODULES takes the migrations of background_task from "
            f"{module}, so its own are never applied.",
            hint="Remove 'background_task' from MIGRATION_MODULES, then run "
            "`manage.py migrate background_task`.",
            id="background_task.E002",
        )
    ]


@register
def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Refuse what the runner would stumble over when it claims or records."""
    return [
        *_wrong_max_run_time(),
        *_wrong_max_attempts(),
        *_wrong_backoff(),
        *_wrong_repeat_timezone(),
        *_wrong_keep_completed(),
    ]


def _wrong_max_run_time() -> Iterator[CheckMessage]:
    limit: Any = app_settings.MAX_RUN_TIME
    if _is_number(limit) and limit > 0:
        return
    name = setting_name("MAX_RUN_TIME")
    if isinstance(limit, timedelta) and limit > timedelta(0):
        hint = f"Set {name} = {limit.total_seconds():g}."
    else:
        hint = f"Set {name} to the seconds that a task may run, such as 3600."
    yield Error(
        f"{name} is {limit!r}; it must be a number of seconds above 0.",
        hint=hint,
        id="background_task.E003",
    )


def _wrong_max_attempts() -> Iterator[CheckMessage]:
    attempts: Any = app_settings.MAX_ATTEMPTS
    if isinstance(attempts, int) and not isinstance(attempts, bool) and attempts > 0:
        return
    name = setting_name("MAX_ATTEMPTS")
    if isinstance(attempts, str) and attempts.isdecimal() and int(attempts) > 0:
        hint = f"Set {name} = {int(attempts)}."
    else:
        hint = f"Set {name} to how often a task is tried, such as 25."
    yield Error(
        f"{name} is {attempts!r}; it must be a whole number, 1 or more.",
        hint=hint,
        id="background_task.E004",
    )


def _wrong_backoff() -> Iterator[CheckMessage]:
    exponent: Any = app_settings.BACKOFF_MULTIPLIER
    if _is_number(exponent) and 0 <= exponent <= 100:
        return
    yield Error(
        f"BACKOFF_MULTIPLIER is {exponent!r}; it must be a number from 0 to 100.",
        hint="Set BACKOFF_MULTIPLIER to the exponent of the wait before the next try, "
        "such as 4: attempts ** 4 + 5 seconds.",
        id="background_task.E005",
    )


def _wrong_repeat_timezone() -> Iterator[CheckMessage]:
    try:
        repeat_zone()
    except SettingError as error:
        yield Error(
            f"{error}.",
            hint="Set BACKGROUND_TASK_REPEAT_TIMEZONE to the zone whose clock daily "
            "tasks are to keep to, such as TIME_ZONE, or to None: a day is 86400 s.",
            id="background_task.E006",
        )


def _wrong_keep_completed() -> Iterator[CheckMessage]:
    from .pruning import keep_completed  # it needs the models

    try:
        keep_completed()
    except SettingError as error:
        yield Error(
            f"{error}.",
            hint="Set BACKGROUND_TASK_KEEP_COMPLETED to days, such as 30, or by "
            "outcome, such as {'succeeded': 7, 'failed': 90}.",
            id="background_task.E007",
        )


@register
def check_setting_names(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn of what is set and nobody reads, such as a limit under a misspelt name."""
    known = [name for name in dir(AppSettings) if name.isupper()]
    known += ["BACKGROUND_TASK_MAX_ATTEMPTS", "BACKGROUND_TASK_MAX_RUN_TIME"]
    return [
        Warning(
            f"{name} is no setting of django-background-tasks: nothing reads it.",
            hint=_meant(name, known),
            id="background_task.W003",
        )
        for name in dir(settings)
        if _PREFIX.match(name) and name not in known
    ]


def _meant(name: str, known: list[str]) -> str:
    by_end = {_PREFIX.sub("", one): one for one in known}
    end = _PREFIX.sub("", name)
    if near := nearest(end, by_end):
        return f"Did you mean {by_end[near[0]]}?"
    return "Remove it, or look its name up in docs/settings.md."


@register
def check_priority_ordering(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn of an order that is taken for "DESC", as 1.2.8 took it, and says another."""
    ordering = getattr(settings, "BACKGROUND_TASK_PRIORITY_ORDERING", "DESC")
    if ordering in ("ASC", "DESC"):
        return []
    return [
        Warning(
            f"BACKGROUND_TASK_PRIORITY_ORDERING is {ordering!r}, and taken for 'DESC'.",
            hint="Set it to 'DESC', the higher priority first, or to 'ASC'.",
            id="background_task.W004",
        )
    ]


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


@register
def check_protected_tasks(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn of foreign keys that keep the row of a task from being deleted."""
    return [
        Warning(
            f"{relation.field} has on_delete={relation.on_delete.__name__}, but a "
            "task's row is deleted when the task ends: one that is pointed at can't "
            "end well.",
            hint="Use on_delete=SET_NULL with null=True to keep the object without "
            "its task, or CASCADE to delete it along.",
            id="background_task.W002",
        )
        for relation in _relations_to_tasks()
        if _forbids_deletion(relation)
    ]


def _relations_to_tasks() -> list[Any]:
    from .models import Task

    fields = Task._meta.get_fields(include_hidden=True)
    return [field for field in fields if isinstance(field, ForeignObjectRel)]


def _forbids_deletion(relation: Any) -> bool:
    if relation.on_delete is DO_NOTHING:
        # Without a constraint the row goes, and the key points at nothing.
        return bool(getattr(relation.field, "db_constraint", False))
    return relation.on_delete in (PROTECT, RESTRICT)


def _migration_files() -> list[Path]:
    files = (Path(folder).glob("*.py") for folder in migrations.__path__)
    return sorted(chain.from_iterable(files))
