"""The small language of these tests."""

import sys
import tempfile
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from django.apps import apps
from django.db import connection, models
from django.test import modify_settings
from django.utils import timezone

from background_task import names, redaction, signals
from background_task.books import Claim
from background_task.models import Runner, Task

KNOWN = "tests.app.tasks.note"  # what the project registers


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


# Moments that the database holds and Python does not.
UNREADABLE = {
    "postgresql": ["-infinity", "infinity", "12345-01-01 00:00:00+00"],
    "mysql": ["0000-00-00 00:00:00"],
    "sqlite": ["2020-13-45 25:00:00"],
}[connection.vendor]


def form_values(form):
    """Return what a browser posts of a task's form in the admin, untouched."""
    values = {name: form[name].value() for name in form.fields}
    values = {name: "" if value is None else value for name, value in values.items()}
    moment = values.pop("run_at")
    values |= {"run_at_0": moment.date(), "run_at_1": moment.time()}
    return values | {"repeat_until_0": "", "repeat_until_1": ""}


@contextmanager
def somebody_else(does, before):
    """Have somebody else do something, once, right before such a statement."""
    begun = []

    def meanwhile(execute, sql, params, many, context):
        if before(sql) and not begun:
            begun.append(sql)
            does()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(meanwhile):
        yield
    assert begun, "there was no such statement"


def locked(task, by="r"):
    """Have a runner hold a task."""
    Task.objects.filter(pk=task.pk).update(locked_by=by, locked_at=timezone.now())
    task.refresh_from_db()
    return task


def make_unreadable(row, column="repeat_until", moment=UNREADABLE[0]):
    """Write such a moment."""
    update = f"UPDATE {row._meta.db_table} SET {column} = %s WHERE id = %s"
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":  # which has to be lenient for it
            cursor.execute("SET @mode = @@sql_mode, SESSION sql_mode = ''")
        cursor.execute(update, [moment, row.pk])
        if connection.vendor == "mysql":
            cursor.execute("SET SESSION sql_mode = @mode")


@contextmanager
def half_an_app():
    """Have the project have an app meanwhile whose tasks cannot be imported."""
    known = names.failure, redaction._discover
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder, "half_an_app")
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "tasks.py").write_text("import no_such_module")
        sys.path.insert(0, folder)
        try:
            with modify_settings(INSTALLED_APPS={"append": "half_an_app"}):
                for asked in known:
                    asked.cache_clear()
                yield
        finally:
            sys.path.remove(folder)
            sys.modules.pop("half_an_app", None)
            for asked in known:
                asked.cache_clear()


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


def inserts(rows):
    """Return how many statements so many new rows cost beyond the first one.

    0 where the database tells the keys of many; MySQL tells one at a time.
    """
    knows_keys = connection.features.can_return_rows_from_bulk_insert
    return 0 if knows_keys else rows
