"""`manage.py tasks_status`: what waits, what runs, where, and what has failed."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from background_task import display, names, status
from background_task.status import MOST, Queue, RunnerState, Running, Status, count_text

from ._family import Family, age, mib, moment, table

_IN_HOUR = "failed_in_hour", "cancelled_in_hour"
_IN_DAY = "failed_in_day", "cancelled_in_day"
_COUNTS = "waiting", "due", "running", "retrying", "abandoned"


class Command(Family):
    help = (
        "Show how it is going: what waits in each queue and for how long, what runs "
        "and where, and what has failed. Changes nothing, and reads a bounded part of "
        f"the tables, however large they are: {MOST}+ stands for more."
    )
    examples = """\
  manage.py tasks_status              queues, runners, what runs, what has failed
  manage.py tasks_status --json       the same for a script; keys in docs/commands.md
  watch -n 5 manage.py tasks_status   the same every 5 seconds
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print JSON, with keys that stay"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        now = status.status()
        if options["json"]:
            self.say_json(as_json(now))
        else:
            self.say("\n\n".join(filter(None, self._parts(now))))

    def _parts(self, now: Status) -> list[str]:
        return [
            self._queues(now),
            self._paused(now),
            self._runners(now),
            self._running(now),
            self._unregistered(now),
            self._ended(now),
        ]

    def _queues(self, now: Status) -> str:
        if not now.queues:
            return _("No task waits or runs.")
        header = [
            *(_("QUEUE"), _("WAITING"), _("DUE"), _("OLDEST DUE")),
            *(_("RUNNING"), _("RETRYING"), _("ABANDONED")),
        ]
        return table(header, [self._queue(queue, now) for queue in now.queues])

    def _queue(self, queue: Queue, now: Status) -> list[str]:
        oldest = age(queue.age(now.now))
        counts = {name: count_text(getattr(queue, name)) for name in _COUNTS}
        before = [counts["waiting"], counts["due"], oldest]
        return [
            _("(no queue)") if queue.name is None else queue.name,
            *before,
            *(counts[name] for name in _COUNTS[2:]),
        ]

    def _paused(self, now: Status) -> str:
        lines = [
            _("Paused: %(queue)s, by %(by)s, since %(at)s")
            % {"queue": display.target(row.target), "by": row.by, "at": moment(row.at)}
            for row in now.paused
        ]
        return self.style.WARNING("\n".join(lines)) if lines else ""

    def _runners(self, now: Status) -> str:
        if not now.runners:
            return self.style.ERROR(_("No runner is up."))
        header = [
            *(_("RUNNER"), _("HOST"), _("PID"), _("UP"), _("SLOTS"), _("SEEN")),
            *(_("VERSION"), _("STATE")),
        ]
        return table(header, [self._runner(one, now) for one in now.runners], left=2)

    def _runner(self, runner: RunnerState, now: Status) -> list[str]:
        slots = "?" if runner.slots is None else str(runner.slots)
        seen = age(runner.seen_ago)
        return [
            runner.id[:8],
            runner.host,
            str(runner.pid),
            age((now.now - runner.started_at).total_seconds()),
            f"{runner.used}/{slots}",
            seen,
            runner.version,
            _state(runner),
        ]

    def _running(self, now: Status) -> str:
        running = [one for runner in now.runners for one in runner.running]
        if not running:
            return ""
        header = [
            *(_("TASK"), _("NAME"), _("FOR"), _("TIME LIMIT"), _("MEMORY")),
            *(_("MEM LIMIT"), _("PROGRESS")),
        ]
        running.sort(key=lambda one: -one.elapsed)
        rows = [
            [
                str(one.task),
                one.title,
                age(one.elapsed),
                age(one.max_run_time),
                mib(one.memory),
                mib(one.memory_limit),
                _progress(one),
            ]
            for one in running
        ]
        return table(header, rows, left=2)

    def _unregistered(self, now: Status) -> str:
        if now.unregistered is None:
            return self.style.WARNING(not_imported_text())
        if not now.unregistered:
            return ""
        return self.style.WARNING(status.unregistered_text(now.unregistered) + ".")

    def _ended(self, now: Status) -> str:
        ended = now.ended
        text = _(
            "Failed for good: %(hour)s of the %(all)s that ended in the last hour, "
            "%(day)s in the last day"
        ) % {
            "hour": _least_text(ended.failed_in_hour, ended.hour_is_all),
            "all": count_text(ended.in_hour),
            "day": _least_text(ended.failed_in_day, ended.day_is_all),
        }
        lines = [f"{text}:" if ended.failed_names else f"{text}."]
        lines += [
            f"  {_least_text(n, ended.day_is_all):>6}  {name}"
            for name, n in ended.failed_names
        ]
        if ended.cancelled_in_day or not ended.day_is_all:
            text = _("Cancelled: %(hour)s in the last hour, %(day)s in the last day.")
            about = {
                "hour": _least_text(ended.cancelled_in_hour, ended.hour_is_all),
                "day": _least_text(ended.cancelled_in_day, ended.day_is_all),
            }
            lines.append(text % about)
        return "\n".join(lines)


def as_json(now: Status) -> dict[str, Any]:
    """Return the status as plain data; the keys are promised in docs/commands.md."""
    ended = now.ended
    return {
        "now": now.now,
        "counted_to": MOST,
        "queues": [_queue_json(queue, now) for queue in now.queues],
        "paused": [
            {"target": row.target, "by": row.by, "since": row.at} for row in now.paused
        ],
        "runners": [_runner_json(runner) for runner in now.runners],
        "running": [
            _running_json(one) for runner in now.runners for one in runner.running
        ],
        "unregistered": now.unregistered
        and [
            {"name": one.name, "due": one.due, "at_least": not one.is_all}
            for one in now.unregistered
        ],
        "ended": {
            "in_hour": min(ended.in_hour, MOST),
            "failed_in_hour": ended.failed_in_hour,
            "failed_in_day": ended.failed_in_day,
            "cancelled_in_hour": ended.cancelled_in_hour,
            "cancelled_in_day": ended.cancelled_in_day,
            "failed_in_day_by_name": dict(ended.failed_names),
            "at_least": [
                *(["in_hour"] if ended.in_hour > MOST else []),
                *(_IN_HOUR if not ended.hour_is_all else []),
                *(_IN_DAY if not ended.day_is_all else []),
            ],
        },
    }


def _queue_json(queue: Queue, now: Status) -> dict[str, Any]:
    return {
        "queue": queue.name,
        **{name: min(getattr(queue, name), MOST) for name in _COUNTS},
        "at_least": [name for name in _COUNTS if getattr(queue, name) > MOST],
        "oldest_due": queue.oldest_due,
        "oldest_due_seconds": queue.age(now.now),
        "paused_by": queue.paused_by,
        "paused_since": queue.paused_at,
    }


def _runner_json(runner: RunnerState) -> dict[str, Any]:
    return {
        "id": runner.id,
        "host": runner.host,
        "pid": runner.pid,
        "version": runner.version,
        "started_at": runner.started_at,
        "queues": sorted(runner.served.queues),
        "excluded_queues": sorted(filter(None, runner.served.excluded)),
        "slots": runner.slots,
        "used": runner.used,
        "seen_seconds_ago": runner.seen_ago,
        "stale": runner.is_stale,
        "draining": runner.is_draining,
    }


def _running_json(one: Running) -> dict[str, Any]:
    return {
        "task": one.task,
        "name": one.name,
        "title": one.title,
        "queue": one.queue,
        "runner": one.runner,
        "host": one.host,
        "pid": one.pid,
        "attempt": one.attempt,
        "seconds": one.elapsed,
        "max_run_time": one.max_run_time,
        "memory": one.memory,
        "memory_limit": one.memory_limit,
        "progress": {
            "done": one.progress_done,
            "total": one.progress_total,
            "message": one.progress_message,
        },
    }


def not_imported_text() -> str:
    """Say why it is not known which names are registered."""
    error = names.failure()
    text = _(
        "Which names are registered is not known: a tasks.py cannot be imported "
        "(%(error)s)."
    )
    return text % {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _least_text(n: int, is_all: bool) -> str:
    return str(n) if is_all else f"{n}+"


def _state(runner: RunnerState) -> str:
    if runner.is_stale:
        return _("stale")
    return _("draining") if runner.is_draining else _("serving")


def _progress(one: Running) -> str:
    if one.progress_done is None:
        return "-"
    total = "" if one.progress_total is None else f"/{one.progress_total}"
    return f"{one.progress_done}{total} {one.progress_message or ''}".strip()
