"""Tries that were recorded: what is listed of them?"""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from background_task import display
from background_task.display import duration, error_line, when
from background_task.models import Attempt

from . import lists, pages
from .quick import Quick


@admin.register(Attempt)
class AttemptAdmin(Quick):
    """What is known of every try, to look at."""

    list_display = our_columns = (
        *("how", "named", "error_said", "ended", "lasted", "peak", "cpu", "exited"),
    )
    list_filter = ("outcome",)
    ordering = ("-id",)
    search_fields = ("task_id", "task_name")
    search_help_text = _("A task's id, or the beginning of its full name.")
    empty_list = _("No try has ended yet: manage.py process_tasks records them.")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search as the lists of tasks do."""
        return lists.search(queryset, search_term, ("task_id",), ""), False

    def page_of(self, row: Any) -> dict[str, Any]:
        """Return the try as the page of its task shows it."""
        return {"try_page": pages.try_page(row, self.admin_site.name)}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that reads the ends of errors, and no output."""
        return lists.TryList

    @admin.display(description=_("task name"))
    def named(self, attempt: Attempt) -> str:
        """Say whose it is, as the lists of tasks do, and which of its tries."""
        return pages.named_try(attempt)

    @admin.display(description=_("error"))
    def error_said(self, attempt: Any) -> str | None:
        """Say in short what went wrong."""
        return pages.error_in_short(error_line(attempt.error_head, attempt.error_tail))

    @admin.display(description=_("outcome"), ordering="outcome")
    def how(self, attempt: Attempt) -> str | None:
        """Say how it ended."""
        return pages.outcome_badge(attempt)

    @admin.display(description=_("ended"), ordering="ended_at")
    def ended(self, attempt: Attempt) -> str | None:
        """Say when it ended."""
        return when(attempt.ended_at)

    @admin.display(description=_("duration"))
    def lasted(self, attempt: Attempt) -> str | None:
        """Say how long it took."""
        return duration(attempt.duration)

    @admin.display(description=_("peak memory"))
    def peak(self, attempt: Attempt) -> str | None:
        """Say what it held at most, as people read it."""
        return display.memory(attempt.peak_memory)

    @admin.display(description=_("CPU"))
    def cpu(self, attempt: Attempt) -> str | None:
        """Say how long it computed."""
        return duration(attempt.cpu_seconds)

    @admin.display(description=_("exit code"))
    def exited(self, attempt: Attempt) -> int | None:
        """Say how its process ended."""
        return attempt.exit_code

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runners record what has ended."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It is evidence."""
        return False
