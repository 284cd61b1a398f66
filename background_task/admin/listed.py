"""What is common to tasks that wait and those that have ended?"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from background_task import display, leases, redaction
from background_task.display import duration, error_line, when
from background_task.models import (
    Attempt,
    BaseTask,
    CompletedTask,
    Runner,
    Task,
    _is_running,
)
from background_task.states import State, state_of

from . import lists, pages
from .quick import Quick

# The columns that are shown in another form than they are stored.
SHOWN_AS = {
    "task_name": "named",
    "task_params": "arguments",
    "task_hash": "shown_hash",
    "run_at": "planned_at",
    "failed_at": "failed",
    "locked_by": "holder",
}

SEARCHED = ["task_name", "task_params"]  # upstream's; see `search`

LONGEST_ARGUMENTS = 80


class Listed(Quick):
    """What the lists and pages of tasks have in common."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the tasks, each with whether its runner is alive; None: no runner."""
        runners = Runner.objects.filter(pk=OuterRef("locked_by"))
        alive = Subquery(runners.annotate(alive=leases.trusted()).values("alive")[:1])
        tasks: QuerySet[Any] = super().get_queryset(request)
        tasks = tasks.annotate(runner_is_alive=alive)
        return tasks

    def get_object(self, *args: Any, **kwargs: Any) -> Any:
        """Return the row; its moments are such as Django's form can show in the zone.

        Those at the calendar's ends are moved by hours, and stay there.
        """
        row = super().get_object(*args, **kwargs)
        for field in row._meta.concrete_fields if row is not None else ():
            moment = getattr(row, field.attname)
            if isinstance(moment, datetime):
                setattr(row, field.attname, display.nearest_in_zone(moment))
        return row

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that knows each task's last try."""
        return lists.TaskList

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns, each once and as it is shown: redacted, in words."""
        return self.shown_as(super().get_list_display(request))

    def shown_as(self, columns: Iterable[Any]) -> list[Any]:
        """Return what shows these columns; a moment that is edited there is its own."""
        edited = {"run_at"}.intersection(self.list_editable)
        shown = (name if name in edited else _shown_as(name) for name in columns)
        return list(dict.fromkeys(shown))

    def get_search_fields(self, request: HttpRequest) -> Any:
        """Leave out of a project's own what would tell arguments by being found."""
        fields = list(super().get_search_fields(request))
        if fields == SEARCHED:
            return fields
        return [name for name in fields if not _tells_arguments(name.lstrip("^=@"))]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search by indexes alone, unless a subclass has fields of its own."""
        if list(self.get_search_fields(request)) != SEARCHED:
            return super().get_search_results(request, queryset, search_term)
        completed = issubclass(self.model, CompletedTask)
        ids = ("pk", "task_id") if completed else ("pk",)
        return lists.search(queryset, search_term, ids, "task_hash"), False

    def lookup_allowed(
        self, lookup: str, value: str, request: HttpRequest | None = None
    ) -> bool:
        """Refuse an address that asks which arguments there are: it would tell them."""
        if _tells_arguments(lookup):
            return False
        return bool(super().lookup_allowed(lookup, value, request))  # type: ignore[arg-type]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show dots for what is redacted."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or not is_redacted(obj):
            return fieldsets
        return [
            (name, {**options, "fields": redacted(options["fields"])})
            for name, options in fieldsets
        ]

    def page_of(self, row: Any) -> dict[str, Any]:
        """Return the task's page."""
        return {"task_page": pages.task_page(row, self.admin_site.name)}

    # Columns

    @admin.display(description=_("status"))
    def status(self, task: BaseTask) -> str:
        """Say which state it is in."""
        return pages.state_badge(task, timezone.now())

    @admin.display(description=_("task name"), ordering="task_name")
    def named(self, task: BaseTask) -> str:
        """Show the name, the id that commands take, and what a person calls it."""
        return pages.named(task.task_name, lists.task_id_of(task), task.verbose_name)

    @admin.display(description=_("task params"))
    def arguments(self, task: BaseTask) -> str:
        """Show the arguments, but for what is redacted."""
        text = redaction.params_text(task.task_name, task.task_params)
        short = Truncator(text).chars(LONGEST_ARGUMENTS)
        return format_html('<code title="{}">{}</code>', pages.title(text), short)

    @admin.display(description=_("task hash"), ordering="task_hash")
    def shown_hash(self, task: BaseTask) -> str | None:
        """Show the hash; None, which is a dash, where it would help to guess."""
        return None if is_redacted(task) else task.task_hash

    @admin.display(description=_("run at"), ordering="run_at")
    def planned_at(self, task: BaseTask) -> str | None:
        """Say when it is to run."""
        return when(task.run_at)

    @admin.display(description=_("failed at"), ordering="failed_at")
    def failed(self, task: BaseTask) -> str | None:
        """Say when it failed for good; None, which is a dash, if it has not."""
        return when(task.failed_at)

    @admin.display(description=_("error"))
    def has_error(self, task: BaseTask) -> str | None:
        """Say in short what the last error was; None, which is a dash, for none.

        Beside what runs, or what has succeeded, it is another try's, and says so.
        """
        error = pages.error_in_short(error_line(task.last_error))
        state = state_of(task, timezone.now())
        if error is None or state not in (State.RUNNING, State.DONE):
            return error
        return format_html(
            '<span class="bgtask-former">{}</span> {}', _("former try:"), error
        )

    @admin.display(description=_("locked by"), ordering="locked_by")
    def holder(self, task: BaseTask) -> str | None:
        """Show the runner's id, which is long, in short."""
        if not task.locked_by:
            return None
        short = Truncator(task.locked_by).chars(13)
        return format_html('<span title="{}">{}</span>', task.locked_by, short)

    @admin.display(description=_("duration"))
    def lasted(self, task: Any) -> str | None:
        """Say how long the last try took, or the one that runs has."""
        if isinstance(task, Task) and task.locked_at is not None:
            running = (timezone.now() - task.locked_at).total_seconds()
            return gettext("%s so far") % duration(max(0.0, running))
        last = _last_try(task)
        return duration(last.duration) if last is not None else None

    @admin.display(description=_("peak memory"))
    def peak(self, task: Any) -> str | None:
        """Say what the last try held at most; nothing of one that runs."""
        if isinstance(task, Task) and task.locked_by is not None:
            return None
        last = _last_try(task)
        return display.memory(last.peak_memory) if last is not None else None

    @admin.display(description=_("last outcome"))
    def outcome(self, task: Any) -> str | None:
        """Say how the last try ended."""
        return pages.outcome_badge(_last_try(task))


def _tells_arguments(lookup: str) -> bool:
    return lookup.partition("__")[0] in ("task_params", "task_hash")


def is_redacted(task: BaseTask) -> bool:
    return redaction.is_redacted(task.task_name, task.task_params)


def redacted(fields: Iterable[Any]) -> list[Any]:
    """Return a form's fields, each once: dots for the arguments, and not their hash.

    A secret that is short could be guessed by trying which one has this hash.
    """
    shown: list[Any] = []
    for field in fields:
        if isinstance(field, list | tuple):
            shown.append(tuple(redacted(field)))
        elif field != "task_hash":
            shown.append("arguments" if field == "task_params" else field)
    return list(dict.fromkeys(shown))


def _shown_as(column: Any) -> Any:
    return SHOWN_AS.get(column, column) if isinstance(column, str) else column


def _last_try(task: Any) -> Attempt | None:
    """Return what the list has read along, or read it."""
    if not hasattr(task, "last_try"):
        lists.with_last_tries([task])
    last: Attempt | None = task.last_try
    return last


def holder_is_alive(task: BaseTask) -> bool | None:
    if not hasattr(task, "runner_is_alive"):  # of a queryset of somebody else's
        return task.locked_by_pid_running()
    if task.runner_is_alive is None:
        return _is_running(task.locked_by) if task.locked_by else None
    return bool(task.runner_is_alive)
