"""Runners that are up: what is listed of them?"""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from background_task import display, leases
from background_task.display import served, when
from background_task.models import Runner

from . import lists, pages
from .actions import OF_RUNNERS, Action, drain
from .quick import Quick


@admin.register(Runner)
class RunnerAdmin(Quick):
    """Running `process_tasks`: their rows are written by them alone."""

    list_display = our_columns = (
        *("host", "pid", "state", "used", "memory", "runs", "seen", "queues_named"),
        *("since", "version", "id"),
    )
    ordering = ("host", "pid")
    actions = [drain]
    row_actions = OF_RUNNERS
    empty_list = _(
        "No runner is up, so no task runs: start manage.py process_tasks on a host "
        "that reaches this database."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Runner]:
        """Return the runners, each with whether its lease still runs."""
        runners: QuerySet[Runner] = super().get_queryset(request)
        return leases.with_trust(runners)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that knows who asks whom to drain."""
        return lists.RunnerList

    def offered(self, request: HttpRequest, row: Any) -> list[Action]:
        """Return what may be done to one that still takes tasks."""
        if not row.is_alive or row.draining or lists.drained_by(row) is not None:
            return []
        return self.allowed_actions(request)

    def page_of(self, row: Any) -> dict[str, Any]:
        """Return the runner's page."""
        facts, running = (
            pages.runner_facts(row),
            pages.running_tasks(row, self.admin_site.name),
        )
        page = {"facts": facts, "running": running, "is_alive": row.is_alive}
        return {"runner_page": page}

    @admin.display(description=_("state"))
    def state(self, runner: Any) -> str:
        """Say whether it is heard of, and takes tasks."""
        return pages.runner_badge(runner)

    @admin.display(description=_("up since"), ordering="started_at")
    def since(self, runner: Runner) -> str | None:
        """Say when it started."""
        return when(runner.started_at)

    @admin.display(description=_("last seen"), ordering="trusted_until")
    def seen(self, runner: Runner) -> str | None:
        """Say when it last renewed its lease."""
        return when(runner.last_seen)

    @admin.display(description=_("slots"))
    def used(self, runner: Runner) -> str | None:
        """Say how many of its slots are taken."""
        return pages.slots(runner)

    @admin.display(description=_("memory"))
    def memory(self, runner: Runner) -> str | None:
        """Say what its tasks hold."""
        return display.memory(pages.memory(runner))

    @admin.display(description=_("runs"))
    def runs(self, runner: Runner) -> str | None:
        """Say what has run there for a second."""
        return pages.running_in_short(runner, self.admin_site.name)

    @admin.display(description=_("queues"))
    def queues_named(self, runner: Runner) -> str | None:
        """Say which queues it takes tasks of."""
        return served(runner)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runners add themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Runners renew themselves."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Runners remove themselves, and rescue removes the dead."""
        return False
