"""The dashboard's pages: what is seen, and what a person may have done there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import control, dashboard, diagnosis, display
from .models import Attempt, Control, Runner, Task, row_id

CONTROL = "background_task.control_task"
CONFIRM = "confirm.html"  # whether something is meant
_TEMPLATES = "admin/background_task"
_LONGEST_TARGET = Control._meta.get_field("target").max_length or 0


def urls(site: admin.AdminSite) -> list[URLPattern]:
    """Return the patterns of the dashboard's pages, below the list of tasks."""

    def view(function: Callable[..., HttpResponse]) -> Any:
        def shown(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            return function(request, site, **kwargs)

        return site.admin_view(shown)

    return [
        path("dashboard/", view(see), name="background_task_dashboard"),
        path("dashboard/<slug:verb>/", view(order), name="background_task_order"),
    ]


def see(request: HttpRequest, site: admin.AdminSite) -> HttpResponse:
    """Show the dashboard; with `?live` what of it changes, for a script that asks."""
    may = _May.of(request, site)
    if not may.see_tasks:
        raise PermissionDenied
    seen = dashboard.look()
    worst, *others = diagnosis.diagnose(
        seen, tries=may.see_tries, runners=may.see_runners
    )
    context = {"seen": seen, "worst": worst, "others": others, "may": may}
    context |= {"limits": dashboard, "every_queue": control.EVERY_QUEUE}
    if "live" in request.GET:
        name = f"{_TEMPLATES}/dashboard_live.html"
        request.current_app = site.name
        return TemplateResponse(request, name, context)
    context |= {"title": _("Dashboard"), "opts": Task._meta}
    return page(request, site, "dashboard.html", context)


def order(request: HttpRequest, site: admin.AdminSite, verb: str) -> HttpResponse:
    """Have something done, or ask first whether it is meant."""
    if not _May.of(request, site).control:
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    target = given.get("target", "")
    if verb not in _ORDERS or len(target) > _LONGEST_TARGET or "\0" in target:
        raise Http404
    wanted = _ORDERS[verb](target)
    address = reverse("admin:background_task_dashboard", current_app=site.name)
    if request.method != "POST":
        context = {
            "title": wanted.question,
            "consequence": wanted.consequence,
            "hidden": [("target", wanted.target)],
            "opts": Task._meta,
            "trail": [(address, _("Dashboard"))],
            "back": address,
        }
        return page(request, site, CONFIRM, context)
    level, text = wanted.give(request.user.get_username())
    dashboard.forget()
    messages.add_message(request, level, text)
    return HttpResponseRedirect(address)


def page(
    request: HttpRequest, site: admin.AdminSite, name: str, context: dict[str, Any]
) -> HttpResponse:
    """Return a page of this app's in the frame of an admin."""
    request.current_app = site.name
    context = {**site.each_context(request), **context}
    return TemplateResponse(request, f"{_TEMPLATES}/{name}", context)


def may_see(
    request: HttpRequest, site: admin.AdminSite | None, model: type[Any] = Task
) -> bool:
    """Return whether a person may see such rows; the dashboard, if those are tasks.

    Nobody may whom a project's own ModelAdmin of them keeps out.
    """
    name, user = model._meta.model_name, request.user
    theirs: Any = None if site is None else site._registry.get(model)
    if theirs is not None and not theirs.has_view_or_change_permission(request):
        return False
    return any(user.has_perm(f"background_task.{v}_{name}") for v in ("view", "change"))


@dataclass(frozen=True, slots=True)
class _May:
    """What a person may see and do."""

    see_tasks: bool
    see_tries: bool
    see_runners: bool
    control: bool

    @classmethod
    def of(cls, request: HttpRequest, site: admin.AdminSite) -> "_May":
        tasks = may_see(request, site)
        return cls(
            see_tasks=tasks,
            see_tries=may_see(request, site, Attempt),
            see_runners=may_see(request, site, Runner),
            control=tasks and request.user.has_perm(CONTROL),
        )


# What may be done

WHAT_STOP_DOES = gettext_lazy(
    "What is stopped is asked to end, killed after its grace, and not tried again. If "
    "it repeats, its next run stays planned."
)
WHAT_DRAIN_DOES = gettext_lazy(
    "A runner that drains claims no more and lets what runs finish for its drain time; "
    "then it ends, as by SIGTERM. What keeps it alive may start it again."
)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, how a person is asked about it, and what it answers."""

    verb: str
    target: str
    question: str
    consequence: Any
    give: Callable[[str], tuple[int, str]]  # by whom; the message and its level


def _stop(target: str) -> Order:
    task = Task.objects.filter(pk=row_id(target)).first()
    name = task.with_id() if task else target

    def give(by: str) -> tuple[int, str]:
        if task is not None and control.stop([task.pk], by):
            return messages.SUCCESS, _("Task %s is being stopped.") % name
        if task is not None and (task.locked_by or "").isdecimal():
            text = _(
                "Task %s is run in-process or by 1.2.8, and can't be asked to stop."
            )
            return messages.WARNING, text % name
        return messages.WARNING, _("Task %s does not run any more.") % name

    return Order(
        verb="stop",
        target=target,
        question=_("Stop task %s?") % name,
        consequence=WHAT_STOP_DOES,
        give=give,
    )


def _drain(target: str) -> Order:
    runner = Runner.objects.filter(pk=target).first()
    name = f"{runner.host} {runner.pid}" if runner else target

    def give(by: str) -> tuple[int, str]:
        if not control.drain(target, by):
            return messages.WARNING, _("Runner %s is gone.") % name
        return messages.SUCCESS, _("Runner %s drains, and ends then.") % name

    return Order(
        verb="drain",
        target=target,
        question=_("Drain runner %s?") % name,
        consequence=WHAT_DRAIN_DOES,
        give=give,
    )


def _pause(target: str) -> Order:
    what = display.target(target)

    def give(by: str) -> tuple[int, str]:
        control.pause(target, by)
        return messages.SUCCESS, _("Paused: %s.") % what

    return Order(
        verb="pause",
        target=target,
        question=_("Pause %s?") % what,
        consequence=_(
            "Nothing of it is begun, by any runner, until somebody resumes it. What "
            "runs goes on."
        ),
        give=give,
    )


def _resume(target: str) -> Order:
    what = display.target(target)

    def give(by: str) -> tuple[int, str]:
        if not control.resume(target):
            return messages.WARNING, _("Not paused any more: %s.") % what
        return messages.SUCCESS, _("Resumed: %s.") % what

    return Order(
        verb="resume",
        target=target,
        question=_("Resume %s?") % what,
        consequence=_("Runners begin with what is due."),
        give=give,
    )


_ORDERS: dict[str, Callable[[str], Order]] = {
    "stop": _stop,
    "drain": _drain,
    "pause": _pause,
    "resume": _resume,
}
