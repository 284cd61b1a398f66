"""How are things, in one sentence, and what is there to do?"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import TextChoices
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .dashboard import Count, Dashboard
from .display import called, duration
from .status import unregistered_text

# Due for so long, a task waits for a slot, and not for the next look at the table.
BACKLOG = timedelta(minutes=1)
# Of the tries of the last hour: so many, and so large a part of them.
FAILING, FAILING_SHARE = 5, 0.2


class State(TextChoices):
    """What is said of the whole."""

    NO_RUNNER = "no-runner", gettext_lazy("No runner")
    UNREGISTERED = "unregistered", gettext_lazy("Not registered")
    FAILING = "failing", gettext_lazy("Failing")
    BACKLOG = "backlog", gettext_lazy("Backlog")
    PAUSED = "paused", gettext_lazy("Paused")
    HEALTHY = "healthy", gettext_lazy("Healthy")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A state, why it is said, and what to do; a command to type, if that is it."""

    state: State
    sentence: str
    advice: str = ""
    command: str = ""

    @property
    def label(self) -> Any:
        """What the state is called."""
        return self.state.label


def diagnose(
    seen: Dashboard, *, tries: bool = True, runners: bool = True
) -> list[Diagnosis]:
    """Return what is to be said, the worst first; at least one, if all is well.

    To one who may see `tries`, or not, and `runners`, whose tables are below, or not.
    """
    return [
        *_of_runners(seen, are_shown=runners),
        *_of_a_pause_of_all(seen),
        *_of_names(seen),
        *(_of_failures(seen) if tries else ()),
        *_of_backlog(seen),
        *_of_pauses(seen),
    ] or [_healthy(seen)]


def _healthy(seen: Dashboard) -> Diagnosis:
    if seen.locked and not seen.depth.due:
        return Diagnosis(State.HEALTHY, _("Everything that is due runs."))
    return Diagnosis(State.HEALTHY, _tasks_due(seen.depth.due))


def _of_runners(seen: Dashboard, *, are_shown: bool) -> Iterator[Diagnosis]:
    due = _tasks_due(seen.depth.due) if seen.depth.due else _("What comes will wait.")
    command = "python manage.py process_tasks"
    if not seen.runners:
        yield Diagnosis(
            State.NO_RUNNER,
            _("Nothing runs tasks. %s") % due,
            _("Start a runner, and have something keep it alive:"),
            command,
        )
    elif not seen.alive:
        silent = [runner.silent for runner in seen.runners if runner.silent is not None]
        sentence = _("Runners are in the books, but none has been heard of.")
        if silent:
            text = _("No runner has been heard of for %s.")
            sentence = text % duration(min(silent))
        advice = _("Look at their hosts below and at what they logged, or start one:")
        if not are_shown:
            advice = _("Look at their hosts and at what they logged, or start one:")
        yield Diagnosis(State.NO_RUNNER, f"{sentence} {due}", advice, command)
    elif not seen.claiming:
        yield Diagnosis(
            State.NO_RUNNER,
            _("All runners are draining: they claim no more. %s") % due,
            _("They end when what runs has ended. Unless one follows, start it:"),
            command,
        )
    for queue in seen.queues if seen.claiming else ():
        if queue.due and not queue.is_served and not seen.rests(queue):
            option = "" if queue.name is None else f" --queue {shlex.quote(queue.name)}"
            yield Diagnosis(
                State.NO_RUNNER,
                _("No runner serves %(queue)s. %(due)s")
                % {"queue": called(queue.name), "due": _tasks_due(queue.due)},
                _("Start one that does:"),
                command + option,
            )


def _of_a_pause_of_all(seen: Dashboard) -> Iterator[Diagnosis]:
    if seen.every_queue is not None:
        yield Diagnosis(
            State.PAUSED,
            _("Everything is paused, by %(by)s. %(due)s")
            % {"by": seen.every_queue.by, "due": _tasks_due(seen.depth.due)},
            _("What runs goes on; nothing new is begun until somebody resumes it."),
        )


def _of_pauses(seen: Dashboard) -> Iterator[Diagnosis]:
    resting = [queue for queue in seen.queues if queue.pause and queue.due]
    if resting:
        yield Diagnosis(
            State.PAUSED,
            _("Paused with tasks that are due: %s.")
            % ", ".join(called(queue.name) for queue in resting),
            _("They wait until somebody resumes the queue, below."),
        )


def _of_names(seen: Dashboard) -> Iterator[Diagnosis]:
    if seen.unregistered:
        yield Diagnosis(
            State.UNREGISTERED,
            f"{unregistered_text(seen.unregistered)}.",
            _(
                "No runner with this code takes them. Deploy what registers them and "
                "restart the runners, or cancel them."
            ),
        )


def _of_failures(seen: Dashboard) -> Iterator[Diagnosis]:
    hour = seen.tries.hour
    failed, ended = hour.failed.number, hour.ended.number
    if failed >= FAILING and failed >= FAILING_SHARE * ended:
        what = ngettext("%(n)s try", "%(n)s tries", ended) % {"n": hour.ended}
        yield Diagnosis(
            State.FAILING,
            _("%(failed)s of %(tries)s of the last hour failed.")
            % {"failed": hour.failed, "tries": what},
            _("See which errors they have in common, below."),
        )


def _of_backlog(seen: Dashboard) -> Iterator[Diagnosis]:
    oldest = seen.oldest
    if oldest is None or timezone.now() - oldest < BACKLOG:
        return
    late = (timezone.now() - oldest).total_seconds()
    advice = _("If it grows, more runners or slots help: process_tasks --workers.")
    held = seen.locked.number
    if seen.slots and held < seen.slots:
        advice = _(
            "There are free slots: do runners know these tasks? process_tasks warns of "
            "names that are in no tasks.py."
        )
    yield Diagnosis(
        State.BACKLOG,
        _("%(due)s The oldest has been due for %(late)s.")
        % {"due": _tasks_due(seen.depth.due), "late": duration(late)},
        advice,
    )


def _tasks_due(count: Count) -> str:
    if not count:
        return _("Nothing is due.")
    text = ngettext("%s task is due.", "%s tasks are due.", count.number)
    return text % count
