"""What does the page of one task or runner show beside its form?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db.models import Model
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from background_task import display, names, policies, redaction
from background_task.display import (
    LongText,
    breakable,
    duration,
    served,
    size,
    when,
)
from background_task.models import Attempt, CompletedTask, Control, Runner, Task
from background_task.states import State, state_of

from .lists import drained_by, task_id_of

LONGEST_ERROR, LONGEST_CALLED = 80, 60  # characters of it in a list
LONGEST_TITLE = 2000  # characters of a text that is told whole when pointed at

# Tries that a page shows, the newest ones: one may be released without an end.
MOST_TRIES = 50

_MARKS = {
    State.WAITING: "○",
    State.RETRYING: "↻",
    State.DUE: "◷",
    State.RUNNING: "▶",
    State.FAILED: "✕",
    State.CANCELLED: "⊘",
    State.DONE: "✓",
}

# The badge of a try that ended so; any other has failed.
_STATE_AFTER: dict[str, State] = {
    Attempt.Outcome.SUCCEEDED: State.DONE,
    Attempt.Outcome.CANCELLED: State.CANCELLED,
}

Row = tuple[str | Promise, Any]


def badge(kind: str, mark: str, label: Any) -> str:
    """Return a word with a mark in a coloured frame; each says it alone."""
    return format_html(
        '<span class="bgtask-badge bgtask-{}"><span aria-hidden="true">{}</span> {}'
        "</span>",
        kind,
        mark,
        label,
    )


def state_badge(task: Any, now: datetime) -> str:
    """Return the state of a task."""
    state = state_of(task, now)
    return badge(state.value, _MARKS[state], state.label)


def named(name: str, task_id: int | None, called: str | None = None) -> str:
    """Return a task's name, its id, and what a person calls it, for a list."""
    known_as = "" if task_id is None else str(task_id)
    return format_html("{}{}", _named_as(name, known_as), _called(called))


def named_try(attempt: Attempt) -> str:
    """Return the name and the id of a try's task, and which try it is, for a list."""
    about = {"id": attempt.task_id, "number": attempt.number}
    return _named_as(attempt.task_name, gettext("%(id)d, try %(number)d") % about)


def _named_as(name: str, known_as: str) -> str:
    """Return a name, with what tells it from others in small.

    The name may be broken between its words alone. It also stands whole, for who looks
    for it in a page.
    """
    return format_html(
        '<span title="{}">{}</span>{}',
        name,
        breakable(name),
        format_html(" <small>{}</small>", known_as) if known_as else "",
    )


def _called(called: str | None) -> str:
    if not called:
        return ""
    short = Truncator(called).chars(LONGEST_CALLED)
    return format_html(
        '<small class="bgtask-called" title="{}">{}</small>', called, short
    )


def outcome_badge(attempt: Attempt | None) -> str | None:
    """Return how a try ended; None, which is a dash, for no try."""
    if attempt is None:
        return None
    state = _STATE_AFTER.get(attempt.outcome, State.FAILED)
    return badge(state.value, _MARKS[state], attempt.get_outcome_display())


def error_in_short(line: str) -> str | None:
    """Return what an error says, cut where it is long; None, a dash, for none."""
    if not line:
        return None
    short = breakable(Truncator(line).chars(LONGEST_ERROR))
    return format_html(
        '<span class="bgtask-error" title="{}">{}</span>', title(line), short
    )


def title(text: str) -> str:
    """Return a text to be told when pointed at: a list has one in each of its rows."""
    return Truncator(text).chars(LONGEST_TITLE)


def runner_badge(runner: Any) -> str:
    """Return the state of a runner that was read with `is_alive`."""
    if not runner.is_alive:
        return badge("failed", "✕", gettext("stale: not heard of"))
    if runner.draining:
        return badge("retrying", "◌", gettext("draining"))
    if (by := drained_by(runner)) is not None:
        return badge("retrying", "◌", gettext("asked to drain by %s") % by)
    return badge("done", "✓", gettext("serving"))


def link(target: Model | None, text: Any, site: str) -> Any:
    """Return a link to an object's page in this admin, or the text if it has none."""
    if target is None:
        return text
    name = f"admin:{target._meta.app_label}_{target._meta.model_name}_change"
    try:
        address = reverse(name, args=[target.pk], current_app=site)
    except NoReverseMatch:
        return text
    return format_html('<a href="{}">{}</a>', address, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try as a page shows it."""

    attempt: Attempt
    badge: str
    facts: list[Row]
    texts: list[LongText]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """All that there is to see of a task: empty rows are left out."""

    badge: str
    facts: list[Row]
    arguments: list[tuple[str, str]]
    is_redacted: bool
    progress: "Progress | None"
    error: LongText | None
    tries: list[Try]
    earlier: int
    empty: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running task says it is."""

    done: int
    total: int | None
    message: str

    @property
    def text(self) -> str:
        """Say it in numbers."""
        if not self.total:
            return str(self.done)
        percent = min(100, max(0, 100 * self.done // self.total))
        return gettext("%(done)d of %(total)d (%(percent)d %%)") % {
            "done": self.done,
            "total": self.total,
            "percent": percent,
        }


def task_page(task: Any, site: str) -> TaskPage:
    """Read what there is to see of a task that waits, runs or has ended.

    `site` is the name of the admin that it is seen in.
    """
    now = timezone.now()
    history = Attempt.of(task_id_of(task), task._state.db)
    tries = list(history.order_by("-id")[: MOST_TRIES + 1])
    earlier = 0 if len(tries) <= MOST_TRIES else history.count() - MOST_TRIES
    tries = tries[:MOST_TRIES]
    last = tries[0] if tries else None
    is_completed = isinstance(task, CompletedTask)
    facts = _ended(task, last, now) if is_completed else _ahead(task, now, site)
    told_by_try = last is not None and last.error.strip() == task.last_error.strip()
    return TaskPage(
        badge=state_badge(task, now),
        facts=[(name, value) for name, value in facts if value not in (None, "")],
        arguments=redaction.arguments(task.task_name, task.task_params),
        is_redacted=redaction.is_redacted(task.task_name, task.task_params),
        progress=None if is_completed else _progress(task),
        error=LongText(_("Last error"), task.last_error)
        if task.last_error and not told_by_try
        else None,
        tries=[_try(attempt, now) for attempt in tries],
        earlier=earlier,
        empty=_no_tries(task),
    )


def _no_tries(task: Any) -> str:
    if isinstance(task, CompletedTask):
        return gettext(
            "No try is recorded: it was cancelled before its first one, it ran "
            "in-process, or it ended before tries were recorded."
        )
    if task.locked_by is not None:
        if task.attempts:
            return gettext("A try runs, and is recorded when it has ended.")
        return gettext("Its first try runs: it is recorded when it has ended.")
    if task.attempts:
        return gettext(
            "No try is recorded: it ran in-process, or before tries were recorded."
        )
    if not Runner.objects.exists():
        return gettext(
            "It has not been tried, and no runner is up: start manage.py process_tasks."
        )
    return gettext("It has not been tried.")


def _ahead(task: Task, now: datetime, site: str) -> Iterator[Row]:
    """Yield what is to be known of a task that waits or runs."""
    yield from _named(task)
    if task.locked_by is None and task.failed_at is None:
        is_due = task.run_at <= now
        yield _("Due since") if is_due else _("Next run"), when(task.run_at, now)
        yield _("Not registered"), names.why_no_runner(task.task_name)
    if task.failed_at is not None:
        yield _("Given up"), when(task.failed_at, now)
    yield (
        _("Failed tries"),
        gettext("%(number)d of %(most)d")
        % {"number": task.attempts, "most": policies.max_attempts(task.task_name)},
    )
    yield _("Priority"), str(task.priority)
    yield from _repeats(task)
    if task.locked_by is not None:
        yield from _held(task, now, site)


def _named(task: Any) -> Iterator[Row]:
    yield _("Function"), format_html("<code>{}</code>", breakable(task.task_name))
    yield _("Id"), str(task_id_of(task) or "")
    yield _("Queue"), task.queue or gettext("none")
    if task.creator_object_id:
        yield _("Created by"), _creator(task)


def _creator(task: Any) -> str:
    """Say who has created it; by its type and id if no code has the model any more."""
    kind = task.creator_content_type
    if kind is not None and kind.model_class() is None:
        return f"{kind.app_label}.{kind.model} {task.creator_object_id}"
    return str(task.creator or "")


def _repeats(task: Any) -> Iterator[Row]:
    if task.repeat > 0:
        yield _("Repeats"), gettext("every %s") % duration(task.repeat)
        yield _("Until"), when(task.repeat_until)


def _held(task: Task, now: datetime, site: str) -> Iterator[Row]:
    runner = Runner.objects.filter(pk=task.locked_by).first()
    if runner is None:
        text = gettext("%s, which is no runner that is known") % task.locked_by
        yield _("Held by"), text
    else:
        is_alive = runner.is_trusted()
        note = "" if is_alive else gettext(" (stale: not heard of)")
        yield _("Held by"), link(runner, f"{runner.host} {runner.pid}{note}", site)
    yield _("Since"), when(task.locked_at, now)
    running = (runner.running if runner else None) or []
    for told in running:
        if told.get("task") == task.pk:
            yield from _now(told, now)
    if (stop := stop_of(task)) is not None:
        yield (
            _("Asked to stop"),
            format_html("{} {}", gettext("by %s") % stop.by, when(stop.at, now)),
        )


def stop_of(task: Task) -> Control | None:
    """Return who asked for it to be stopped, and when; None if nobody did."""
    stops = Control.objects.filter(verb=Control.Verb.STOP, target=str(task.pk))
    return stops.first()


def _now(told: dict[str, Any], now: datetime) -> Iterator[Row]:
    """Yield what a runner tells of a try that runs."""
    yield _("Process"), str(told.get("pid") or "")
    yield _("Runs for"), of_limit(elapsed(told, now), told.get("seconds"), duration)
    yield (
        _("Memory now"),
        of_limit(told.get("held"), told.get("memory"), display.memory),
    )


def elapsed(told: dict[str, Any], now: datetime) -> float:
    """Return the seconds for which a try has run."""
    began = datetime.fromtimestamp(float(told.get("began") or 0), UTC)
    return max(0.0, now.timestamp() - began.timestamp())


def of_limit(value: Any, limit: Any, form: Any) -> str:
    """Return a value as people read it, with its limit if there is one."""
    if value is None:
        return ""
    if limit is None:
        return str(form(value))
    return gettext("%(value)s of at most %(limit)s") % {
        "value": form(value),
        "limit": form(limit),
    }


def _progress(task: Task) -> Progress | None:
    if task.progress_done is None and not task.progress_message:
        return None
    return Progress(
        done=task.progress_done or 0,
        total=task.progress_total,
        message=task.progress_message or "",
    )


def _ended(task: CompletedTask, last: Attempt | None, now: datetime) -> Iterator[Row]:
    """Yield what is to be known of a task that has ended."""
    yield from _named(task)
    yield _("Ended"), when(task.run_at, now)
    yield _("Tries"), str(task.attempts)
    yield _("Priority"), str(task.priority)
    yield from _repeats(task)
    if last is not None:
        yield _("Last try"), outcome_badge(last)
        yield _("It took"), duration(last.duration)
        yield _("Peak memory"), display.memory(last.peak_memory)


def try_page(attempt: Attempt, site: str) -> Try:
    """Return a try, with a link to its task, which may have ended."""
    task = CompletedTask.objects.filter(task_id=attempt.task_id).first()
    target = task or Task.objects.filter(pk=attempt.task_id).first()
    page = _try(attempt, timezone.now())
    name = f"{attempt.task_id} {attempt.task_name}"
    return replace(page, facts=[(_("Task"), link(target, name, site)), *page.facts])


def _try(attempt: Attempt, now: datetime) -> Try:
    facts: list[Row] = [
        (_("Began"), when(attempt.started_at, now)),
        (_("Ended"), when(attempt.ended_at, now)),
        (_("Waited"), duration(attempt.waited)),
        (_("Took"), duration(attempt.duration)),
        (_("Peak memory"), display.memory(attempt.peak_memory)),
        (_("CPU"), duration(attempt.cpu_seconds)),
        (_("Exit code"), attempt.exit_code),
        (_("Where"), f"{attempt.host} {attempt.pid or ''}".strip()),
    ]
    texts = [
        LongText(_("Error"), attempt.error),
        LongText(_("Stack when it was stopped, or crashed"), attempt.stack),
        LongText(_output_title(attempt), attempt.output),
    ]
    return Try(
        attempt=attempt,
        badge=outcome_badge(attempt) or "",
        facts=[(name, value) for name, value in facts if value not in (None, "")],
        texts=[text for text in texts if text.text],
    )


def _output_title(attempt: Attempt) -> str:
    kept = len(attempt.output.encode())
    if attempt.output_size > kept:
        return gettext("Output: head and tail of %s") % size(attempt.output_size)
    return gettext("Output")


def runner_facts(runner: Any) -> list[Row]:
    """Return what is to be known of a runner that was read with `is_alive`."""
    now = timezone.now()
    drain = Control.objects.filter(verb=Control.Verb.DRAIN, target=runner.pk).first()
    facts: list[Row] = [
        (_("State"), runner_badge(runner)),
        (_("Host"), runner.host),
        (_("Process"), str(runner.pid)),
        (_("Up since"), when(runner.started_at, now)),
        (_("Last seen"), when(runner.last_seen, now)),
        (_("Trusted until"), when(runner.trusted_until, now)),
        (_("Queues"), served(runner)),
        (_("Slots"), slots(runner)),
        (_("Memory of its tasks"), display.memory(memory(runner))),
        (_("Version"), runner.version),
        (_("Id"), runner.pk),
    ]
    if drain is not None:
        asked = format_html("{} {}", gettext("by %s") % drain.by, when(drain.at, now))
        facts.append((_("Asked to drain"), asked))
    return [(name, value) for name, value in facts if value not in (None, "")]


def slots(runner: Runner) -> str | None:
    """Return how many of its slots are taken by what has run for a second."""
    if runner.slots is None:
        return None
    return gettext("%(used)d of %(slots)d") % {
        "used": len(runner.running or []),
        "slots": runner.slots,
    }


def memory(runner: Runner) -> int | None:
    """Return what its tasks hold now; None if it tells of none."""
    if not runner.running:
        return None
    return sum(told.get("held") or 0 for told in runner.running)


def running_tasks(runner: Runner, site: str) -> list[dict[str, Any]]:
    """Return what it runs, in words, each with a link to the task."""
    now = timezone.now()
    return [
        {
            "task": link(Task(pk=told["task"]), _running(told), site),
            "pid": told.get("pid"),
            "time": of_limit(elapsed(told, now), told.get("seconds"), duration),
            "memory": of_limit(told.get("held"), told.get("memory"), display.memory),
        }
        for told in runner.running or []
    ]


def _running(told: dict[str, Any]) -> str:
    return format_html("{} {}", told["task"], breakable(told["name"]))


def running_in_short(runner: Runner, site: str, most: int = 3) -> str | None:
    """Return links to what it runs, the first ones."""
    running = runner.running or []
    if not running:
        return None
    links = format_html_join(
        ", ",
        "{}",
        (
            (link(Task(pk=told["task"]), breakable(told["name"]), site),)
            for told in running[:most]
        ),
    )
    more = len(running) - most
    if more <= 0:
        return links
    rest = ngettext("and %d more", "and %d more", more) % more
    return format_html("{} {}", links, rest)
