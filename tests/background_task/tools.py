"""The small language of these tests."""

from contextlib import contextmanager
from datetime import timedelta

from django.apps import apps
from django.db import connection, models
from django.utils import timezone

from background_task import signals
from background_task.books import Claim
from background_task.models import Runner, Task


def make_task(name="app.tasks.job", args=(), kwargs=None, **columns):
    """Save a task that is due unless `run_at` says otherwise."""
    columns.setdefault("run_at", timezone.now() - timedelta(minutes=1))
    task = Task.objects.new_task(name, args, kwargs or {}, columns.pop("run_at"))
    for column, value in columns.items():
        setattr(task, column, value)
    task.save()
    return task


def make_claimed_task(*args, locked_by="a-runner", **columns):
    """Save a task, claim it, and return it with its claim."""
    task = make_task(*args, **columns).lock(locked_by)
    return task, Claim.of(task)


def make_runner(id="a-runner", trusted_for=timedelta(seconds=30)):
    """Save a runner with a lease of so long."""
    now = timezone.now()
    return Runner.objects.create(
        id=id,
        host="a-host",
        place="a-place",
        pid=4711,
        pid_started=1,
        started_at=now,
        trusted_until=now + trusted_for,
    )


SIGNALS = {
    name: getattr(signals, name)
    for name in (
        "task_created",
        "task_started",
        "task_error",
        "task_rescheduled",
        "task_successful",
        "task_failed",
        "task_finished",
    )
}


@contextmanager
def heard():
    """Give the list of (signal's name, sender, arguments) that are sent meanwhile."""
    calls = []
    receivers = []
    for name, signal in SIGNALS.items():

        def receive(sender, name=name, signal=None, **named):
            calls.append((name, sender, named))

        receivers.append((signal, receive))
        signal.connect(receive)
    try:
        yield calls
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)


@contextmanager
def receiver(signal, receive):
    """Connect `receive` to `signal` meanwhile."""
    signal.connect(receive)
    try:
        yield
    finally:
        signal.disconnect(receive)


@contextmanager
def model_pointing_at_tasks(on_delete, **options):
    """Give a model with a foreign key to Task, and its table, meanwhile."""

    class Loan(models.Model):
        task = models.ForeignKey(Task, on_delete, related_name="+", **options)

        class Meta:
            app_label = "app"

        def __str__(self):
            return f"of {self.task}"

    try:
        with connection.schema_editor() as editor:
            editor.create_model(Loan)
        yield Loan
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Loan)
        apps.all_models["app"].pop("loan")
        apps.clear_cache()
