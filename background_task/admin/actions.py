"""What may be done to the chosen rows, in a list or on the page of one?

Each is a guarded write of `control`: what has changed hands meanwhile is left alone,
and the answer says how many were, and why.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import router
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from background_task import control, views
from background_task.models import HELD_BY_PID, Task

from . import asking

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

_BATCH = 500  # rows in one transaction
# Seconds that an action may go on: web servers end requests that last much longer.
_LONGEST = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """Which rows an action leaves alone, and why: a sentence about a number of them."""

    which: Q
    because: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that may be done to rows, and how it is told.

    `do` gets ids and who asks, and returns how many it was done to; those of them that
    are `left` afterwards were left alone for that reason. Any of the permissions will
    do. What has a `consequence`, which is a sentence, asks before it is done, and its
    button is red.
    """

    name: str
    label: Any
    do: Callable[[list[Any], str], int]
    done: Any
    left: tuple[Left, ...] = ()
    permissions: tuple[str, ...] = ("control",)
    consequence: Any = None

    def question(self, what: Any) -> str:
        """Ask whether it is meant, of a row or a number of them."""
        return gettext("%(action)s %(what)s?") % {"action": self.label, "what": what}


RUN_NOW = Action(
    name="run_now",
    label=_("Run now"),
    do=lambda pks, by: control.run_now(pks),
    done=ngettext_lazy("%d is due now", "%d are due now"),
    left=(
        Left(
            Q(locked_by__isnull=False),
            ngettext_lazy(
                "%d runs already and was left alone",
                "%d run already and were left alone",
            ),
        ),
    ),
)
CANCEL = Action(
    name="cancel",
    label=_("Cancel"),
    do=control.cancel,
    done=ngettext_lazy("%d cancelled", "%d cancelled"),
    left=(
        Left(
            Q(locked_by__isnull=False),
            ngettext_lazy(
                "%d runs and was left alone: stop it",
                "%d run and were left alone: stop them",
            ),
        ),
    ),
    consequence=_(
        "What is cancelled ends and is not run; if it repeats, that ends "
        "with it. It is then among the completed tasks, where it can be retried. What "
        "runs by now is left alone."
    ),
)
STOP = Action(
    name="stop",
    label=_("Stop"),
    do=control.stop,
    done=ngettext_lazy("%d is asked to stop", "%d are asked to stop"),
    left=(
        Left(
            Q(locked_by=None),
            ngettext_lazy(
                "%d does not run and was left alone: cancel it",
                "%d do not run and were left alone: cancel them",
            ),
        ),
        Left(
            HELD_BY_PID,
            ngettext_lazy(
                "%d is run in-process or by 1.2.8 and can't be asked to stop",
                "%d are run in-process or by 1.2.8 and can't be asked to stop",
            ),
        ),
    ),
    consequence=views.WHAT_STOP_DOES,
)


def _priority(name: str, label: Any, by_how_much: int) -> Action:
    return Action(
        name=name,
        label=label,
        do=lambda pks, by: control.change_priority(pks, by_how_much),
        done=ngettext_lazy("Priority of %d changed", "Priority of %d changed"),
        left=(
            Left(
                Q(locked_by__isnull=False),
                ngettext_lazy(
                    "%d runs and was left alone", "%d run and were left alone"
                ),
            ),
        ),
        permissions=("change", "control"),
    )


INC_PRIORITY = _priority("inc_priority", _("priority += 1"), 1)
DEC_PRIORITY = _priority("dec_priority", _("priority -= 1"), -1)
RETRY = Action(
    name="retry",
    label=_("Retry"),
    do=lambda pks, by: len(control.retry(pks)),
    done=ngettext_lazy("%d waits again", "%d wait again"),
    left=(
        Left(
            Q(failed_at=None),
            ngettext_lazy(
                "%d succeeded and was left alone", "%d succeeded and were left alone"
            ),
        ),
    ),
)
DRAIN = Action(
    name="drain",
    label=_("Drain"),
    do=lambda pks, by: sum(control.drain(pk, by) for pk in pks),
    done=ngettext_lazy("%d is asked to drain", "%d are asked to drain"),
    consequence=views.WHAT_DRAIN_DOES,
)

OF_TASKS = (RUN_NOW, CANCEL, STOP, INC_PRIORITY, DEC_PRIORITY)
OF_COMPLETED = (RETRY,)
OF_RUNNERS = (DRAIN,)


@dataclass(slots=True)
class Tally:
    """What came of it: how many rows, and whether time was left for the others."""

    done: int = 0
    left: Counter[Left] = field(default_factory=Counter)
    gone: int = 0
    is_finished: bool = True
    reached: Any = None  # the last id that was gone through

    def text(self, action: Action) -> str:
        """Say it to the one who asked."""
        said = []
        if self.done or not (self.left or self.gone):
            said.append(action.done % self.done)
        said += [left.because % number for left, number in self.left.items()]
        if self.gone:
            said.append(
                ngettext(
                    "%d is not here any more",
                    "%d are not here any more",
                    self.gone,
                )
                % self.gone
            )
        if not self.is_finished:
            rest = gettext(
                "%(seconds)d s were over before the rest, with ids above %(id)s: "
                "choose them in the list with id__gt=%(id)s in its address"
            )
            said.append(rest % {"seconds": _LONGEST, "id": self.reached})
        return "; ".join(said) + "."


def carry_out(action: Action, rows: QuerySet[Any], by: str) -> Tally:
    """Do it to these rows, a batch in each transaction; return what came of it.

    What it is not for is counted and not gone through: it may be nearly everything.
    """
    tally, end = Tally(), time.monotonic() + _LONGEST
    fitting = rows
    for left in action.left:
        fitting = fitting.filter(~left.which)
        tally.left += Counter({left: rows.filter(left.which).count()})
    for pks in _batches(fitting):
        if tally.reached is not None and time.monotonic() > end:
            tally.is_finished = False
            break
        done = action.do(pks, by)
        left_now = _left_of(pks, action, rows, len(pks) - done)
        tally.reached = pks[-1]
        tally.done += done
        tally.left += left_now
        tally.gone += len(pks) - done - left_now.total()
    return tally


def _left_of(
    pks: list[Any], action: Action, rows: QuerySet[Any], most: int
) -> Counter[Left]:
    """Return how many have become what it is not for, since they were chosen."""
    everything = rows.model._default_manager.using(router.db_for_write(Task))
    found: Counter[Left] = Counter()
    for left in action.left:
        number = everything.filter(left.which, pk__in=pks).count()
        found[left] = min(number, most - found.total())
    return found


def tell(
    modeladmin: "ModelAdmin[Any]", request: HttpRequest, action: Action, tally: Tally
) -> None:
    """Show on the next page what came of it."""
    well = tally.done and not tally.left and not tally.gone and tally.is_finished
    level = messages.SUCCESS if well else messages.WARNING
    modeladmin.message_user(request, tally.text(action), level)


def _batches(rows: QuerySet[Any]) -> Iterator[list[Any]]:
    """Yield the ids in their order, those that are there now, without keeping them."""
    pks = rows.order_by("pk").values_list("pk", flat=True)
    last = rows.order_by("-pk").values_list("pk", flat=True).first()
    if last is None:
        return
    batch = list(pks.filter(pk__lte=last)[:_BATCH])
    while batch:
        yield batch
        batch = list(pks.filter(pk__gt=batch[-1], pk__lte=last)[:_BATCH])


def _act(
    action: Action, modeladmin: Any, request: HttpRequest, queryset: QuerySet[Any]
) -> HttpResponse | None:
    """Do it, or ask first, as Django's own "Delete selected" does."""
    if action.consequence is not None and not request.POST.get("post"):
        question = asking.ask_of_chosen(modeladmin, request, action, queryset)
        if question is not None:
            return question
    tally = carry_out(action, queryset, request.user.get_username())
    tell(modeladmin, request, action, tally)
    return None


def _as_django(action: Action, about: str) -> Any:
    """Return what the `actions` of a ModelAdmin take."""
    function: Any = partial(_act, action)
    function.__name__, function.__doc__ = action.name, about
    admin.action(function, permissions=action.permissions, description=action.label)
    return function


inc_priority = _as_django(INC_PRIORITY, "Make the chosen tasks' priority one higher.")
dec_priority = _as_django(DEC_PRIORITY, "Make the chosen tasks' priority one lower.")
run_now = _as_django(RUN_NOW, "Have the chosen tasks be due now.")
cancel = _as_django(CANCEL, "End the chosen tasks that wait.")
stop = _as_django(STOP, "Have the chosen tasks that run stopped.")
retry = _as_django(RETRY, "Have the chosen tasks that failed wait again.")
drain = _as_django(DRAIN, "Have the chosen runners end.")
