"""Tasks that wait or run: what is listed of them, and what may be changed?"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from background_task import views
from background_task.managers import hash_text
from background_task.models import BaseTask, CompletedTask, Task, row_id

from . import lists, pages
from .actions import (
    OF_TASKS,
    STOP,
    Action,
    cancel,
    dec_priority,
    inc_priority,
    run_now,
    stop,
)
from .forms import TaskForm
from .listed import SEARCHED, Listed, holder_is_alive, is_redacted, redacted

# What runners write.
CLAIM = (
    *("attempts", "failed_at", "last_error", "locked_by", "locked_at"),
    *("progress_done", "progress_total", "progress_message"),
)


@admin.register(Task)
class TaskAdmin(Listed):
    """Tasks that wait or run."""

    form = TaskForm
    ordering = ("-id",)
    list_display = our_columns = (
        *("status", "task_name", "has_error", "run_at", "queue", "attempts"),
        *("lasted", "peak", "outcome"),
        *("task_params", "priority", "locked_by", "locked_by_pid_running"),
    )
    list_filter = [lists.StateFilter, lists.QueueFilter, lists.OutcomeFilter]
    search_fields = SEARCHED
    search_help_text = lists.SEARCH_HELP
    actions = [run_now, cancel, stop, inc_priority, dec_priority]
    row_actions = OF_TASKS
    empty_list = _(
        "Nothing waits or runs. Call a function that is decorated with @background, "
        "and its task is here until it has ended; then it is a completed task."
    )
    # What runners write: a form that was opened before must not write it back, or a
    # task that runs would look free and be run a second time.
    readonly_fields = ["task_hash", *CLAIM]

    def get_urls(self) -> Any:
        """Have the dashboard below the list."""
        return [*views.urls(self.admin_site), *super().get_urls()]

    @admin.display(boolean=True, description=_("locked by pid running"))
    def locked_by_pid_running(self, task: BaseTask) -> bool | None:
        """Answer as the task does, by what was read along with it."""
        return holder_is_alive(task)

    def offered(self, request: HttpRequest, row: Task) -> list[Action]:
        """Return what may be done to what waits, or to what runs."""
        if row.locked_by is not None:
            asked = pages.stop_of(row) is not None
            fitting: tuple[Action, ...] = () if asked else (STOP,)
        else:
            fitting = tuple(one for one in self.row_actions if one is not STOP)
        return [action for action in self.allowed_actions(request) if action in fitting]

    def _get_obj_does_not_exist_redirect(
        self, request: HttpRequest, opts: Any, object_id: Any
    ) -> Any:
        """Lead to the completed row if the task has ended meanwhile.

        Django asks when its own look has found no row: one may end after any other.
        """
        place = self._completed_place(request, unquote(object_id))
        if place is None:
            django: Any = super()  # of which the types do not tell this one
            return django._get_obj_does_not_exist_redirect(request, opts, object_id)
        text = gettext("Task %s has ended: this is what became of it.")
        self.message_user(request, text % unquote(object_id), messages.INFO)
        return HttpResponseRedirect(place)

    def place_of_missing(self, request: HttpRequest, object_id: str) -> str:
        """Return the page of the completed row, if there is one."""
        place = self._completed_place(request, unquote(object_id))
        return place or super().place_of_missing(request, object_id)

    def _completed_place(self, request: HttpRequest, task_id: str) -> str | None:
        """Return where a task is that is not here, if it has ended and may be seen."""
        pk = row_id(task_id)
        if not pk or not self.has_view_or_change_permission(request):
            return None
        theirs: Any = self.admin_site._registry.get(CompletedTask)
        if theirs is None or not theirs.has_view_or_change_permission(request):
            return None
        row = CompletedTask.objects.filter(task_id=pk).first()
        if row is None:
            return None
        name = "admin:background_task_completedtask_change"
        return reverse(name, args=[row.pk], current_app=self.admin_site.name)

    # The form

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Lead to what became of a task that ends while its form is being saved."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except DatabaseError:
            pk = row_id(unquote(object_id or ""))
            if not pk or self.get_queryset(request).filter(pk=pk).exists():
                raise
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Leave out what runners write of a task that is yet to be made."""
        fields = super().get_fields(request, obj)
        if obj is not None or self.fields:
            return fields
        return [field for field in fields if field not in ("task_hash", *CLAIM)]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Keep the name of a task that has something to hide.

        Under another name its arguments would be shown.
        """
        fields = super().get_readonly_fields(request, obj)
        if obj is None or not is_redacted(obj):
            return fields
        return list(dict.fromkeys([*redacted(fields), "arguments", "task_name"]))

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
        if "run_at" in form.changed_data:
            obj.repeat_from = None  # from then on, repeats are counted from there
        else:
            written -= {"run_at", "repeat_from"}
        obj.save(update_fields=written - {"id", *CLAIM})
