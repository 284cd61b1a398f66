"""What is done inside the project, with whichever package it has; run as a script.

`in_project.py make=old list` calls `make("old")` and `list_rows()` and prints a JSON
object of what they return.
"""

import json
import sys
from datetime import timedelta

import django

django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.utils import timezone  # noqa: E402
from exports.models import Export  # noqa: E402
from exports.tasks import export, fail, give_up, mail, note  # noqa: E402

from background_task import background  # noqa: E402
from background_task.models import CompletedTask, Task  # noqa: E402
from background_task.tasks import TaskSchedule, autodiscover, tasks  # noqa: E402

PENDING = (1, None, [True, {"ä": "日本"}])
LARGE = "x" * 100_000


def make(mark):
    """Have every kind of row; return the ids of those that are not completed."""
    _end(mark)
    return _hold(mark) | _fail_once(mark) | _wait(mark)


def _end(mark):
    """Tasks that this package has run."""
    note(f"{mark}-succeeded", verbose_name="Succeeded", queue="q")
    assert tasks.run_next_task("q")
    note(f"{mark}-repeated", queue="q", repeat=Task.DAILY)
    assert tasks.run_next_task("q")
    Task.objects.filter(queue="q").delete()
    give_up(f"{mark}-failed", queue="q")
    assert tasks.run_next_task("q")


def _hold(mark):
    """Tasks that a process of this package took before it died; one is long ago."""
    stale = note(f"{mark}-stale", queue="q")
    assert tasks._runner.get_task_to_run(tasks, "q").pk == stale.pk
    long_ago = timezone.now() - timedelta(hours=2)
    Task.objects.filter(pk=stale.pk).update(locked_at=long_ago)
    held = note(f"{mark}-held", queue="q2")
    assert tasks._runner.get_task_to_run(tasks, "q2").pk == held.pk
    return {"stale": stale.pk, "held": held.pk}


def _fail_once(mark):
    task = fail(f"{mark}-retrying", queue="q3")
    assert tasks.run_next_task("q3")
    return {"retrying": task.pk}


def _wait(mark):
    now = timezone.now()
    user = User.objects.create(username=f"{mark}-user")
    group = Group.objects.create(name=f"{mark}-group")
    row = Export.objects.create(name=f"{mark}-export")
    row.task = export(row.pk, schedule=now, creator=row)
    row.save()
    waiting = {
        "pending": note(f"{mark}-pending", *PENDING, key="ü"),
        "later": note(f"{mark}-later", schedule=timedelta(days=1), priority=3),
        "low": note(f"{mark}-low", priority=-7, verbose_name="Nicht so wichtig: ß"),
        "queued": mail(f"{mark}-queued"),
        "of-a-user": note(f"{mark}-of-a-user", creator=user),
        "of-a-group": note(f"{mark}-of-a-group", creator=group),
        "of-an-export": row.task,
        "large": note(f"{mark}-large", LARGE),
        "repeating": note(
            f"{mark}-repeating",
            repeat=Task.WEEKLY,
            repeat_until=now + timedelta(days=90),
            creator=user,
            queue="reports",
        ),
        "missed": note(
            f"{mark}-missed", schedule=now - timedelta(days=3), repeat=Task.HOURLY
        ),
        "unknown": _of_former_times()(f"{mark}-unknown"),
    }
    return {kind: task.pk for kind, task in waiting.items()}


def _of_former_times():
    """A task whose function is in no tasks.py any more."""

    @background(name="exports.tasks.of_former_times")
    def of_former_times(label):
        raise NotImplementedError

    return of_former_times


def enqueue(mark):
    """Enqueue as a web process does; return the ids."""
    user = User.objects.create(username=f"{mark}-user")
    made = {
        "queued": mail(f"{mark}-queued"),
        "of-a-user": note(f"{mark}-of-a-user", creator=user, priority=1),
    }
    return {kind: task.pk for kind, task in made.items()}


def signals(mark):
    """Enqueue a success, a failure that is tried again, and one that is not."""
    note("a", priority=3)
    fail("b", priority=2)
    give_up("c", priority=1)


def look_up(mark):
    """Find waiting rows by name and arguments, as calls and actions do."""
    later = timedelta(days=2)
    return {
        "pending": _found("note", f"{mark}-pending", *PENDING, key="ü"),
        "large": _found("note", f"{mark}-large", LARGE),
        "checked": _again(mark, action=TaskSchedule.CHECK_EXISTING),
        "moved": _again(
            mark, run_at=later, priority=9, action=TaskSchedule.RESCHEDULE_EXISTING
        ),
        "later": _found("note", f"{mark}-later"),
        "later's priority": Task.objects.get(priority=9).pk,
        "replaced": [mail(f"{mark}-queued").pk],
        "queued": _found("mail", f"{mark}-queued"),
    }


def _found(name, *args, **kwargs):
    alike = Task.objects.get_task(f"exports.tasks.{name}", args, kwargs)
    return [task.pk for task in alike]


def _again(mark, **schedule):
    task = note(f"{mark}-later", schedule=schedule)
    return task and task.pk


def list_rows(mark):
    """Read all rows as a project does: lists, questions, methods."""
    waiting = list(Task.objects.all())
    return {
        "tasks": {task.pk: str(task) for task in waiting},
        "creators": {task.pk: str(task.creator) for task in waiting},
        "params": {task.pk: task.params() for task in waiting},
        "held": [t.pk for t in waiting if t.locked_by_pid_running() is not None],
        "with errors": [task.pk for task in waiting if task.has_error()],
        "available": [task.pk for task in Task.objects.find_available()],
        "failed": [task.pk for task in CompletedTask.objects.failed()],
    }


def run_due(mark):
    """Run what is due, as a loop over the package's own runner."""
    count = 0
    while tasks.run_next_task():
        count += 1
    return count


if __name__ == "__main__":
    autodiscover()
    said = {}
    for word in sys.argv[1:]:
        name, _, mark = word.partition("=")
        said[name] = globals()[name](mark)
    print(json.dumps(said))
