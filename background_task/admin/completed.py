"""Tasks that came to their end: what is listed of them?"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from background_task.models import BaseTask, CompletedTask, Task

from . import lists
from .actions import OF_COMPLETED, Action, retry
from .listed import SEARCHED, Listed, holder_is_alive


@admin.register(CompletedTask)
class CompletedTaskAdmin(Listed):
    """Tasks that came to their end."""

    ordering = ("-id",)
    list_display = our_columns = (
        *("status", "task_name", "has_error", "run_at", "lasted", "queue"),
        *("outcome", "peak", "attempts", "succeeded", "failed_at", "task_params"),
        *("priority", "locked_by", "locked_by_pid_running"),
    )
    list_filter = [
        lists.StateFilter,
        lists.EndedFilter,
        lists.QueueFilter,
        lists.OutcomeFilter,
    ]
    search_fields = SEARCHED
    search_help_text = lists.SEARCH_HELP
    actions = [retry]
    row_actions = OF_COMPLETED
    empty_list = _(
        "Nothing has ended yet. Tasks come here when they have succeeded, or failed "
        "for good; manage.py process_tasks runs them."
    )

    @admin.display(description=_("ended"), ordering="run_at")
    def planned_at(self, task: BaseTask) -> str | None:
        """Say when it ended: so `run_at` has it, as with 1.2.8."""
        return super().planned_at(task)

    @admin.display(description=_("succeeded"), boolean=True, ordering="failed_at")
    def succeeded(self, task: CompletedTask) -> bool:
        """Return whether it ended well."""
        return task.failed_at is None

    @admin.display(description=_("locked by pid running"))
    def locked_by_pid_running(self, task: BaseTask) -> str | None:
        """Say it without a cross, which would look like a failure of the task."""
        said = {True: gettext("yes"), False: gettext("no"), None: None}
        return said[holder_is_alive(task)]

    def offered(self, request: HttpRequest, row: CompletedTask) -> list[Action]:
        """Return what may be done to what failed."""
        return self.allowed_actions(request) if row.failed_at is not None else []

    def place_of_missing(self, request: HttpRequest, object_id: str) -> str:
        """Return the list of tasks, where a retry has made a new one."""
        tasks: Any = self.admin_site._registry.get(Task)
        if tasks is not None and tasks.has_view_or_change_permission(request):
            name = "admin:background_task_task_changelist"
            return reverse(name, current_app=self.admin_site.name)
        return super().place_of_missing(request, object_id)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runners record what has ended."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It is history: one row is to be looked at, retried or deleted."""
        return obj is None and super().has_change_permission(request, obj)
