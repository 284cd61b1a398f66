"""The pages that the admin has of us, with something on each."""

from datetime import timedelta

from django.urls import reverse
from django.utils import timezone

from background_task import control, dashboard
from background_task.models import Attempt, CompletedTask, Runner, Task
from background_task.states import CANCELLED

from .tools import KNOWN, locked, make_task

MODELS = (Task, CompletedTask, Attempt, Runner)
BOARD = "/admin/background_task/task/dashboard/"


def address(model, page, *args):
    name = f"admin:background_task_{model._meta.model_name}_{page}"
    return reverse(name, args=args)


def fill():
    """Save rows of every kind: tasks in each state, a try of each outcome, runners."""
    now = timezone.now()
    make_task("app.tasks.due", queue="mail", last_error="oops", attempts=1)
    make_task("app.tasks.daily", run_at=now + timedelta(hours=1), repeat=86400)
    make_task("app.tasks.odd", run_at=now + timedelta(hours=1), repeat=7)
    make_task(KNOWN, ["x"], run_at=now + timedelta(days=2), attempts=1)
    make_task("app.tasks.over", failed_at=now, last_error="oops")
    _make_runners(make_task("app.tasks.runs", queue="mail"), now)
    for error in ("", "oops", CANCELLED + "ann"):
        ended = make_task("app.tasks.ended", last_error=error, attempts=1)
        ended.failed_at = now if error else None
        for number, outcome in enumerate(Attempt.Outcome.values, 1):
            _make_try(ended, number, outcome, now)
        ended.create_completed_task()
        ended.delete()
    dashboard.forget()


def every_address():
    """Return the lists, a page of every row, the dashboard, and what asks."""
    lists = [address(model, "changelist") for model in MODELS]
    rows = [
        address(model, "change", row.pk)
        for model in MODELS
        for row in model.objects.all()
    ]
    asking = [
        address(Task, "do", Task.objects.filter(locked_by=None).first().pk, "cancel"),
        address(Runner, "do", "r", "drain"),
        *(f"{BOARD}{verb}/?target==mail" for verb in ("pause", "resume")),
    ]
    return [*lists, *rows, *asking, address(Task, "add"), BOARD]


def _make_runners(task, now):
    told = {"task": task.pk, "name": task.task_name, "pid": 4711, "began": 0}
    told |= {"held": 2**20, "memory": 2**30, "seconds": 60}
    for id, running in (("r", [told]), ("s", [])):
        Runner.objects.create(
            id=id,
            host="a-host",
            place="a-place",
            pid=4711,
            pid_started=1,
            started_at=now,
            trusted_until=now + timedelta(minutes=5 if running else -5),
            version="2.0",
            lease=30,
            slots=4,
            queues=[],
            excluded_queues=["slow"],
            draining=False,
            running=running,
        )
    locked(task)
    Task.objects.filter(pk=task.pk).update(
        progress_done=3, progress_total=9, progress_message="app.progress"
    )
    control.pause("=mail", "ann")
    control.stop([task.pk], "ann")


def _make_try(task, number, outcome, now):
    Attempt.objects.create(
        task_id=task.pk,
        task_name=task.task_name,
        number=number,
        outcome=outcome,
        error="" if outcome == Attempt.Outcome.SUCCEEDED else "oops",
        waited=1,
        started_at=now - timedelta(seconds=75),
        ended_at=now,
        host="a-host",
        pid=4711,
        exit_code=1,
        peak_memory=2**27,
        cpu_seconds=1,
        output="oops\n" * 30,
        output_size=10_000,
        stack="oops",
    )
