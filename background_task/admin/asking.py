"""What does a person see who is asked whether something is meant?

A page in between, as before Django's own "Delete selected": it needs no script.
"""

from typing import Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext

from background_task import views
from background_task.models import Task

from . import lists, pages

_NAMED = 20  # rows that a question names


def ask_of_one(
    modeladmin: Any, request: HttpRequest, action: Any, row: Any
) -> HttpResponse:
    """Ask about the row whose page it is."""
    site = modeladmin.admin_site
    page = reverse(_name(modeladmin, "change"), args=[row.pk], current_app=site.name)
    context = {
        "title": action.question(_called(row)),
        "trail": [*_trail(modeladmin), (page, row)],
        "back": page,
    }
    return _page(modeladmin, request, action, context)


def ask_of_chosen(
    modeladmin: Any, request: HttpRequest, action: Any, rows: QuerySet[Any]
) -> HttpResponse | None:
    """Ask about rows of a list, of which the first ones are named; None if all went."""
    named = list(rows.order_by("pk")[:_NAMED])
    if not named:
        return None
    counted = lists.CountedPaginator(rows, _NAMED)
    what = f"{counted.note or counted.count} {modeladmin.opts.verbose_name_plural}"
    site = modeladmin.admin_site.name
    post = request.POST
    kept = [(ACTION_CHECKBOX_NAME, pk) for pk in post.getlist(ACTION_CHECKBOX_NAME)]
    context = {
        "title": action.question(_called(named[0]) if counted.count == 1 else what),
        "trail": _trail(modeladmin),
        "named": [pages.link(row, _called(row), site) for row in named],
        "more": _more(counted, len(named)),
        "hidden": [
            *kept,
            ("select_across", post.get("select_across", "0")),
            ("action", action.name),
            ("post", "yes"),
        ],
        "back": request.get_full_path(),
    }
    return _page(modeladmin, request, action, context)


def _page(
    modeladmin: Any, request: HttpRequest, action: Any, context: dict[str, Any]
) -> HttpResponse:
    context |= {"opts": modeladmin.opts, "consequence": action.consequence}
    return views.page(request, modeladmin.admin_site, views.CONFIRM, context)


def _more(counted: lists.CountedPaginator, named: int) -> str:
    """Say how many rows are not named, if that is known."""
    more = counted.count - named
    if counted.note:
        return gettext("and more")
    return ngettext("and %d more", "and %d more", more) % more if more > 0 else ""


def _called(row: Any) -> str:
    """Return how a question calls a row, such as `task 4 (shop.tasks.send_receipt)`."""
    name = row.with_id() if isinstance(row, Task) else f"{row.host} {row.pid}"
    return f"{row._meta.verbose_name} {name}"


def _trail(modeladmin: Any) -> list[tuple[str, str]]:
    """Return the way to the list."""
    address = reverse(
        _name(modeladmin, "changelist"), current_app=modeladmin.admin_site.name
    )
    return [(address, capfirst(modeladmin.opts.verbose_name_plural))]


def _name(modeladmin: Any, page: str) -> str:
    opts = modeladmin.opts
    return f"admin:{opts.app_label}_{opts.model_name}_{page}"
