"""The admin: what waits, what ended, who is running."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest

from .managers import hash_text
from .models import CompletedTask, Runner, Task

if TYPE_CHECKING:
    BaseTaskAdmin = admin.ModelAdmin[Task]
    BaseCompletedTaskAdmin = admin.ModelAdmin[CompletedTask]
    BaseRunnerAdmin = admin.ModelAdmin[Runner]
else:  # Django's own class takes no parameters
    BaseTaskAdmin = BaseCompletedTaskAdmin = BaseRunnerAdmin = admin.ModelAdmin

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


CLAIM = ("attempts", "failed_at", "last_error", "locked_by", "locked_at")


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


@admin.register(Task)
class TaskAdmin(BaseTaskAdmin):
    """Tasks that wait or run."""

    list_display = COLUMNS
    search_fields = ["task_name", "task_params"]
    actions = [inc_priority, dec_priority]
    # What runners write: a form that was opened before must not write it back, or a
    # task that runs would look free and be run a second time.
    readonly_fields = ["task_hash", *CLAIM]

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
class CompletedTaskAdmin(BaseCompletedTaskAdmin):
    """Tasks that came to their end."""

    list_display = COLUMNS
    search_fields = ["task_name", "task_params"]


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
