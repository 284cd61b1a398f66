"""The admin: what waits, what ended, who is running."""

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import (
    BooleanField,
    Case,
    F,
    Model,
    OuterRef,
    QuerySet,
    Subquery,
    When,
)
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import Truncator

from .clock import DatabaseTime
from .managers import hash_text, params_text
from .models import Attempt, BaseTask, CompletedTask, Runner, Task, _is_running

if TYPE_CHECKING:
    BaseTaskAdmin = admin.ModelAdmin[Task]
    BaseCompletedTaskAdmin = admin.ModelAdmin[CompletedTask]
    BaseRunnerAdmin = admin.ModelAdmin[Runner]
    BaseAttemptAdmin = admin.ModelAdmin[Attempt]
    ModelForm = forms.ModelForm[Task]
else:  # Django's own classes take no parameters
    BaseTaskAdmin = BaseCompletedTaskAdmin = BaseRunnerAdmin = admin.ModelAdmin
    BaseAttemptAdmin = admin.ModelAdmin
    ModelForm = forms.ModelForm

COLUMNS = (
    "task_name",
    "task_params",
    "run_at",
    "priority",
    "attempts",
    "has_error",
    "locked_by",
    "locked_by_pid_running",
)

LONGEST_ERROR = 60  # characters of it in a list

# What runners write.
CLAIM = (
    *("attempts", "failed_at", "last_error", "locked_by", "locked_at"),
    *("progress_done", "progress_total", "progress_message"),
)


@admin.action(description="priority += 1", permissions=["change"])
def inc_priority(
    modeladmin: "TaskAdmin", request: HttpRequest, queryset: QuerySet[Task]
) -> None:
    """Make the chosen tasks' priority one higher."""
    queryset.update(priority=F("priority") + 1)


@admin.action(description="priority -= 1", permissions=["change"])
def dec_priority(
    modeladmin: "TaskAdmin", request: HttpRequest, queryset: QuerySet[Task]
) -> None:
    """Make the chosen tasks' priority one lower."""
    queryset.update(priority=F("priority") - 1)


class FailedFilter(admin.SimpleListFilter):
    """Yes or no: is `failed_at` set?"""

    title = parameter_name = "failed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "No")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Model]
    ) -> QuerySet[Model]:
        if self.value() is None:
            return queryset
        return queryset.filter(failed_at__isnull=self.value() != "yes")


class AbandonedFilter(FailedFilter):
    """The same of tasks that have not ended: their end could not be written."""

    title = parameter_name = "abandoned"


class Listed:
    """What the lists of tasks have in common, as a mixin for a ModelAdmin."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the tasks, each with whether its runner is alive; None: no runner."""
        trusted = Case(
            When(trusted_until__gt=DatabaseTime(), then=True),
            default=False,
            output_field=BooleanField(),
        )
        runners = Runner.objects.filter(pk=OuterRef("locked_by"))
        alive = Subquery(runners.annotate(alive=trusted).values("alive")[:1])
        tasks: QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        tasks = tasks.annotate(runner_is_alive=alive)
        return tasks

    @admin.display(description="error")
    def has_error(self, task: BaseTask) -> str | None:
        """Say in short what the last error was; None, which is a dash, for none."""
        lines = task.last_error.strip().splitlines()
        if not lines:
            return None
        line = lines[-1 if lines[0].startswith("Traceback") else 0]
        short = Truncator(line).chars(LONGEST_ERROR)
        return format_html('<span class="nowrap" title="{}">{}</span>', line, short)


def _holder_is_alive(task: BaseTask) -> bool | None:
    if not hasattr(task, "runner_is_alive"):  # of a queryset of somebody else's
        return task.locked_by_pid_running()
    if task.runner_is_alive is None:
        return _is_running(task.locked_by) if task.locked_by else None
    return bool(task.runner_is_alive)


class TaskForm(ModelForm):
    """Changes a task, or makes one that can run."""

    class Meta:
        help_texts = {
            "task_name": "As a tasks.py of the project has it, such as "
            "shop.tasks.send_receipt. A name that is in none of them is never run.",
            "task_params": "JSON: a list of the positional arguments and an object "
            'of the others, such as [[7], {"copies": 2}].',
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field: Any = self.fields.get("repeat")
        seconds = self.instance.repeat
        if field is not None and seconds not in dict(Task.REPEAT_CHOICES):
            field.choices = [*field.choices, (seconds, f"every {seconds} s")]

    def clean_task_params(self) -> str:
        """Refuse what could not be run; leave what is not touched to the letter."""
        text: str = self.cleaned_data["task_params"]
        if "task_params" not in self.changed_data and self.instance.pk:
            return text
        try:
            args, kwargs = json.loads(text)
        except (TypeError, ValueError):
            args = kwargs = None
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise forms.ValidationError(
                'This must be a list and an object in JSON, such as [[7], {"copies": 2}'
                "] or [[], {}]."
            )
        return params_text(args, kwargs)

    def _get_validation_exclusions(self) -> set[str]:
        """Let a `repeat` stay that is none of the choices: a call may give any."""
        exclude: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return exclude if "repeat" in self.changed_data else exclude | {"repeat"}


@admin.register(Task)
class TaskAdmin(Listed, BaseTaskAdmin):
    """Tasks that wait or run."""

    form = TaskForm
    list_display = COLUMNS
    list_filter = [AbandonedFilter]
    search_fields = ["task_name", "task_params"]
    actions = [inc_priority, dec_priority]
    # What runners write: a form that was opened before must not write it back, or a
    # task that runs would look free and be run a second time.
    readonly_fields = ["task_hash", *CLAIM]

    @admin.display(boolean=True, description="locked by pid running")
    def locked_by_pid_running(self, task: BaseTask) -> bool | None:
        """Answer as the task does, by what was read along with it."""
        return _holder_is_alive(task)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Begin with a task that is due now and has no arguments."""
        initial = {"run_at": timezone.now(), "task_params": "[[], {}]"}
        return initial | super().get_changeform_initial_data(request)

    def save_model(
        self, request: HttpRequest, obj: Task, form: Any, change: bool
    ) -> None:
        """Save what the form has, and the hash that goes with it."""
        obj.task_hash = hash_text(obj.task_name, obj.task_params)
        if not change:
            obj.save()
            return
        written = {field.name for field in Task._meta.concrete_fields}
        obj.save(update_fields=written - {"id", *CLAIM})


@admin.register(CompletedTask)
class CompletedTaskAdmin(Listed, BaseCompletedTaskAdmin):
    """Tasks that came to their end."""

    # What became of it comes first.
    list_display = (
        "task_name",
        "succeeded",
        "failed_at",
        "has_error",
        *(name for name in COLUMNS if name not in ("task_name", "has_error")),
    )
    list_filter = [FailedFilter]
    search_fields = ["task_name", "task_params"]

    @admin.display(boolean=True, ordering="failed_at")
    def succeeded(self, task: CompletedTask) -> bool:
        """Return whether it ended well."""
        return task.failed_at is None

    @admin.display(description="locked by pid running")
    def locked_by_pid_running(self, task: BaseTask) -> str | None:
        """Say it without a cross, which would look like a failure of the task."""
        return {True: "yes", False: "no", None: None}[_holder_is_alive(task)]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runners record what has ended."""
        return False


@admin.register(Attempt)
class AttemptAdmin(BaseAttemptAdmin):
    """What is known of every try, to look at."""

    list_display = (
        "task_id",
        "number",
        "task_name",
        "outcome",
        "ended_at",
        "lasted",
        "peak",
        "cpu_seconds",
        "exit_code",
    )
    list_filter = ("outcome",)
    search_fields = ("=task_id", "task_name")
    ordering = ("-id",)
    show_full_result_count = False

    @admin.display(description="seconds")
    def lasted(self, attempt: Attempt) -> str | None:
        """Say how long it took."""
        return None if attempt.duration is None else f"{attempt.duration:.2f}"

    @admin.display(description="peak memory", ordering="peak_memory")
    def peak(self, attempt: Attempt) -> str | None:
        """Say what it held at most, as people read it."""
        if attempt.peak_memory is None:
            return None
        return f"{attempt.peak_memory / 1024**2:.1f} MiB"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runners record what has ended."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It is evidence."""
        return False


@admin.register(Runner)
class RunnerAdmin(BaseRunnerAdmin):
    """Running `process_tasks`, to look at: their rows are written by them alone."""

    list_display = ["host", "pid", "started_at", "trusted_until", "version", "id"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runners add themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Runners renew themselves."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Runners remove themselves, and rescue removes the dead."""
        return False
