"""What is common to every list of ours, and to the pages of its rows?"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.urls import path, reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods

from background_task import views

from . import asking, lists
from .actions import Action, carry_out, tell

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:  # Django's own class takes no parameters
    ModelAdmin = admin.ModelAdmin


class Quick(ModelAdmin):
    """What every list has in common: it stays quick; its rows may be acted upon."""

    show_full_result_count = False
    paginator = lists.CountedPaginator
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER  # they count every row, for each choice
    empty_list = _("Nothing is here.")  # what a list without rows says
    row_actions: tuple[Action, ...] = ()
    # What `list_display` is unless a project has another one. Of these columns a list
    # leaves out the last ones where the window has no room; a project's are all shown.
    our_columns: tuple[str, ...] = ()

    class Media:
        css = {"all": ("background_task/admin.css",)}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that says whether it has counted."""
        return lists.CountedList

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Say of a selection of all what the count is worth."""
        columns = list(self.get_list_display(request))
        is_fitted = columns == self.shown_as(self.our_columns)
        extra = {"empty_list": self.empty_list, "is_fitted": is_fitted}
        extra |= extra_context or {}
        response = super().changelist_view(request, extra)
        context = getattr(response, "context_data", None) or {}
        note = getattr(context.get("cl"), "count_note", "")
        if note:
            context["selection_note_all"] = gettext("All %s selected") % note
        return response

    def shown_as(self, columns: Iterable[Any]) -> list[Any]:
        """Return what shows these columns."""
        return list(columns)

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> Any:
        """Link the name, wherever it stands."""
        is_ours = not self.list_display_links and self.list_display_links is not None
        if is_ours and "named" in list_display:
            return ["named"]
        links: Any = super().get_list_display_links(request, list_display)
        return None if links is None else self.shown_as(links)

    def has_control_permission(self, request: HttpRequest) -> bool:
        """May this person run, retry, cancel and stop tasks, and drain runners?"""
        return bool(request.user.has_perm(views.CONTROL))

    # Actions, on the page of one row

    def get_urls(self) -> Any:
        """Add the addresses that the buttons of one row's page lead to."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_do"
        takes = require_http_methods(["GET", "POST"])
        view = self.admin_site.admin_view(takes(self.do_view))
        return [
            path("<path:object_id>/do/<str:action>/", view, name=name),
            *super().get_urls(),
        ]

    def do_view(
        self, request: HttpRequest, object_id: str, action: str
    ) -> HttpResponse:
        """Do to one row what its button says, or ask first whether it is meant."""
        chosen = {one.name: one for one in self.allowed_actions(request)}.get(action)
        if chosen is None or not self.has_view_or_change_permission(request):
            raise PermissionDenied
        if request.method != "POST" and chosen.consequence is None:
            return HttpResponseNotAllowed(["POST"])
        row = self.get_object(request, unquote(object_id))
        if row is None:
            text = gettext("%(name)s %(id)s is not here any more.") % {
                "name": self.opts.verbose_name,
                "id": unquote(object_id),
            }
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self.place_of_missing(request, object_id))
        if request.method != "POST":
            return asking.ask_of_one(self, request, chosen, row)
        rows = self.get_queryset(request).filter(pk=row.pk)
        tally = carry_out(chosen, rows, request.user.get_username())
        tell(self, request, chosen, tally)
        if tally.done:
            self.log_change(request, row, f"{chosen.label}: {tally.text(chosen)}")
        if self.get_queryset(request).filter(pk=row.pk).exists():
            name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
            site = self.admin_site.name
            return HttpResponseRedirect(
                reverse(name, args=[object_id], current_app=site)
            )
        return HttpResponseRedirect(self.place_of_missing(request, object_id))

    def place_of_missing(self, request: HttpRequest, object_id: str) -> str:
        """Return where to look when a row is not here: in the list."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        return reverse(name, current_app=self.admin_site.name)

    def allowed_actions(self, request: HttpRequest) -> list[Action]:
        """Return what this person may do."""
        return [
            action
            for action in self.row_actions
            if any(
                getattr(self, f"has_{name}_permission")(request)
                for name in action.permissions
            )
        ]

    def offered(self, request: HttpRequest, row: Any) -> list[Action]:
        """Return what this person may do to this row, as it is now."""
        return self.allowed_actions(request)

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        """Add what is to be seen of the row, and the buttons."""
        if obj is not None and change:
            name = f"admin:{self.opts.app_label}_{self.opts.model_name}_do"
            site = self.admin_site.name
            context["buttons"] = [
                (action, reverse(name, args=[obj.pk, action.name], current_app=site))
                for action in self.offered(request, obj)
            ]
            context |= self.page_of(obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def page_of(self, row: Any) -> dict[str, Any]:
        """Return what is to be seen of a row beside its form."""
        return {}

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Close the form of a row that is there: what it has is told above it.

        Django shows moments without their zone.
        """
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.fieldsets is not None:
            return fieldsets
        may_change = self.has_change_permission(request, obj)
        title = _("Change it") if may_change else _("Every column")
        # Not of `timezone.now()`, which has no zone without USE_TZ.
        local = timezone.localtime(datetime.now(UTC))
        zone = gettext("Times are in the time zone %s.") % f"{local:%Z}"
        options = {**fieldsets[0][1], "classes": ["collapse"], "description": zone}
        return [(title, options), *fieldsets[1:]]
