"""What users' tests get, and the page that tells of it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from background_task import background
from background_task.exceptions import BackgroundTaskError
from background_task.models import CompletedTask, Runner, Task
from background_task.tasks import TaskSchedule, tasks
from background_task.testing import capture_tasks, run_due_tasks
from tests.app import tasks as app_tasks

from .tools import heard, make_task

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _nothing_ran_before():
    app_tasks.ran.clear()
    yield
    app_tasks.ran.clear()


class RunDueTasksMixin:
    """The same in a test's transaction and outside of one."""

    def test_it_runs_what_is_due_and_says_how_much(self):
        for number in range(3):
            app_tasks.note(number)
        app_tasks.note_later("in a minute")

        with heard() as calls:
            self.assertEqual(run_due_tasks(), 3)

        self.assertEqual([args for args, _ in app_tasks.ran], [(0,), (1,), (2,)])
        self.assertEqual(CompletedTask.objects.succeeded().count(), 3)
        self.assertEqual(Task.objects.count(), 1)
        self.assertEqual(
            [name for name, _, _ in calls],
            ["task_started", "task_successful", "task_finished"] * 3,
        )

    def test_nothing_is_due(self):
        self.assertEqual(run_due_tasks(), 0)

    def test_what_a_task_schedules_for_now_runs_too(self):
        @background(name="scheduling")
        def scheduling():
            app_tasks.note("second")

        self.addCleanup(tasks._tasks.pop, "scheduling")
        scheduling()

        self.assertEqual(run_due_tasks(), 2)

    def test_of_one_queue_only(self):
        app_tasks.note(1)
        app_tasks.note(2, queue="q")
        app_tasks.note(3, queue="q", schedule=60)

        self.assertEqual(run_due_tasks("q", until=in_seconds(60)), 2)

        self.assertEqual([args for args, _ in app_tasks.ran], [(2,), (3,)])

    def test_the_urgent_ones_first(self):
        app_tasks.note("low")
        app_tasks.note("high", priority=1)

        run_due_tasks()

        self.assertEqual([args for args, _ in app_tasks.ran], [("high",), ("low",)])

    def test_later_ones_in_the_order_of_their_times(self):
        app_tasks.note("latest", schedule=300)
        app_tasks.note("later, and urgent", schedule=200, priority=9)
        app_tasks.note("soon", schedule=100)
        app_tasks.note("now")

        self.assertEqual(run_due_tasks(until=in_seconds(250)), 3)

        self.assertEqual(
            [args for args, _ in app_tasks.ran],
            [("now",), ("soon",), ("later, and urgent",)],
        )

    def test_a_moment_that_a_task_itself_names(self):
        task = app_tasks.note_later()

        self.assertEqual(run_due_tasks(until=task.run_at), 1)

    def test_a_repeating_task_runs_as_often_as_it_would(self):
        app_tasks.note(repeat=Task.HOURLY)

        self.assertEqual(run_due_tasks(), 1)
        self.assertEqual(run_due_tasks(until=in_seconds(3 * Task.HOURLY)), 3)

    @override_settings(MAX_ATTEMPTS=1, BACKGROUND_TASK_REPEAT_AFTER_FAILURE=True)
    def test_a_repeating_task_goes_on_after_a_failure_if_it_is_to(self):
        task = app_tasks.fail("a bad day", repeat=Task.HOURLY)

        for _ in range(2):
            with self.assertRaises(ValueError):
                run_due_tasks(until=task.run_at + timedelta(hours=1))

        self.assertEqual(run_due_tasks(until=task.run_at + timedelta(hours=1)), 0)
        following = Task.objects.get()
        self.assertEqual(following.run_at, task.run_at + timedelta(hours=2))
        self.assertEqual(following.attempts, 0)

    def test_the_error_of_a_task_is_raised_after_it_was_recorded(self):
        app_tasks.fail("a bad day")

        with heard() as calls, pytest.raises(ValueError) as raised:
            run_due_tasks()

        self.assertEqual(raised.traceback[-1].name, "fail")  # the task's own frame
        task = Task.objects.get()
        self.assertEqual((task.attempts, task.locked_by), (1, None))
        self.assertIn("ValueError: a bad day", task.last_error)
        self.assertEqual(
            [name for name, _, _ in calls],
            ["task_started", "task_error", "task_rescheduled", "task_finished"],
        )

    def test_after_a_failure_the_next_call_goes_on(self):
        app_tasks.fail(priority=1)
        app_tasks.note()

        with self.assertRaises(ValueError):
            run_due_tasks()

        self.assertEqual(run_due_tasks(), 1)
        self.assertEqual(Task.objects.get().attempts, 1)

    def test_the_next_try_lies_in_the_future(self):
        app_tasks.fail()

        for attempts in (1, 2):
            with self.assertRaises(ValueError):
                run_due_tasks(until=in_seconds(60))
            self.assertEqual(Task.objects.get().attempts, attempts)

    @override_settings(MAX_ATTEMPTS=1)
    def test_a_task_that_is_given_up_raises_too(self):
        app_tasks.fail()

        with self.assertRaises(ValueError):
            run_due_tasks()

        self.assertEqual(CompletedTask.objects.failed().count(), 1)

    def test_exiting_is_raised(self):
        @background(name="exiting")
        def exiting():
            sys.exit(3)

        self.addCleanup(tasks._tasks.pop, "exiting")
        exiting()

        with self.assertRaises(SystemExit):
            run_due_tasks()

        self.assertEqual(Task.objects.get().attempts, 1)

    def test_a_failure_that_a_task_has_caught_is_not_its_own(self):
        @background(name="running_another")
        def running_another():
            tasks.run_next_task("inner")

        self.addCleanup(tasks._tasks.pop, "running_another")
        app_tasks.fail(queue="inner", schedule=-60)
        running_another(priority=1)

        self.assertEqual(run_due_tasks(), 1)
        self.assertEqual(Task.objects.get().attempts, 1)

    def test_a_database_error_is_raised_as_itself(self):
        @background(name="colliding")
        def colliding():
            Runner.objects.bulk_create([a_runner(), a_runner()])

        self.addCleanup(tasks._tasks.pop, "colliding")
        colliding()

        with self.assertRaises(IntegrityError):
            run_due_tasks()

    def test_a_task_that_schedules_itself_does_not_hang(self):
        @background(name="endless")
        def endless():
            endless()

        self.addCleanup(tasks._tasks.pop, "endless")
        endless()

        with self.assertRaises(BackgroundTaskError) as refusal:
            run_due_tasks(limit=3)

        self.assertEqual(
            str(refusal.exception),
            "run_due_tasks() ran 3 tasks (limit=3), and endless is due still. If it "
            "does not schedule itself over and over, raise the limit.",
        )
        self.assertIsNone(Task.objects.get().locked_by)

    def test_as_many_as_the_limit_may_run(self):
        for number in range(3):
            app_tasks.note(number)

        self.assertEqual(run_due_tasks(limit=3), 3)

    def test_held_and_unknown_ones_are_left_alone(self):
        make_task("nobody.knows.it")
        app_tasks.note("held").lock("another")

        self.assertEqual(run_due_tasks(), 0)


class RunDueTasksInATransactionTests(RunDueTasksMixin, TestCase):
    pass


class RunDueTasksTests(RunDueTasksMixin, TransactionTestCase):
    def test_a_database_error_is_raised_as_itself(self):
        super().test_a_database_error_is_raised_as_itself()

        # Outside of a transaction nothing is spoilt.
        self.assertEqual(Task.objects.get().attempts, 1)


class CaptureTasksTests(TestCase):
    def test_what_is_scheduled_meanwhile_in_the_order_of_the_calls(self):
        app_tasks.note("before")

        with capture_tasks() as scheduled:
            first = app_tasks.note(1)
            second = app_tasks.note_later(2, two="2")
        app_tasks.note("after")

        self.assertEqual(scheduled, [first, second])
        self.assertEqual(Task.objects.count(), 4)

    def test_what_was_rolled_back(self):
        with capture_tasks() as scheduled, transaction.atomic():
            app_tasks.note(1, queue="q")
            transaction.set_rollback(True)

        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(scheduled.assert_scheduled(app_tasks.note, 1).queue, "q")

    def test_it_ends_with_an_exception_too(self):
        with self.assertRaises(ZeroDivisionError), capture_tasks() as scheduled:
            app_tasks.note(1 / 0)
        app_tasks.note(1)

        self.assertEqual(scheduled, [])

    def test_a_call_that_found_its_task_scheduled_nothing(self):
        app_tasks.note(1)

        with capture_tasks() as scheduled:
            app_tasks.note(1, schedule={"action": TaskSchedule.CHECK_EXISTING})

        self.assertEqual(scheduled, [])

    def test_the_task_with_these_arguments_is_returned(self):
        with capture_tasks() as scheduled:
            app_tasks.note(1)
            wanted = app_tasks.note((1, 2), two={"a": 1})
            app_tasks.note_later((1, 2), two={"a": 1})

        found = scheduled.assert_scheduled(app_tasks.note, [1, 2], two={"a": 1})

        self.assertIs(found, wanted)

    def test_a_failure_names_what_was_scheduled_instead(self):
        with capture_tasks() as scheduled:
            app_tasks.note(1, two="2")
            app_tasks.fail()

        with self.assertRaises(AssertionError) as failure:
            scheduled.assert_scheduled(app_tasks.note, 1, two="3")

        self.assertEqual(
            str(failure.exception),
            "tests.app.tasks.note(1, two='3') was not scheduled; these were:\n"
            "  tests.app.tasks.note(1, two='2')\n"
            "  tests.app.tasks.fail()",
        )

    def test_a_failure_says_that_nothing_was(self):
        with capture_tasks() as scheduled:
            pass

        with self.assertRaisesRegex(AssertionError, r"note\(\) was not .* nothing was"):
            scheduled.assert_scheduled(app_tasks.note)


def test_under_plain_pytest():
    with transaction.atomic():
        with capture_tasks() as scheduled:
            app_tasks.note(1)
        ran = run_due_tasks()
        transaction.set_rollback(True)

    scheduled.assert_scheduled(app_tasks.note, 1)
    assert ran == 1
    assert app_tasks.ran == [((1,), {})]
    assert not Task.objects.exists()


class PageTests(TestCase):
    """The examples of docs/testing.md, as the project that they make up."""

    def setUp(self):
        if connection.vendor != "sqlite":
            self.skipTest("the page's project has a SQLite database of its own")
        self.folder = Path(tempfile.mkdtemp(prefix="testing-page-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name, text in examples(ROOT / "docs" / "testing.md").items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            (file.parent / "__init__.py").touch()
            file.write_text(text)
        self.settings = self.folder / "shop" / "settings.py"
        self.settings.write_text(self.settings.read_text() + SETTINGS)

    def run_tests(self, label):
        code = "from django.core import management as m; m.execute_from_command_line()"
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, "test", label],
            cwd=self.folder,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "shop.settings"},
            capture_output=True,
            text=True,
        )

    def test_every_example_runs(self):
        ran = self.run_tests("shop")

        self.assertEqual(ran.returncode, 0, ran.stderr)
        written = "".join(path.read_text() for path in self.folder.glob("**/test_*.py"))
        self.assertIn(f"Ran {written.count('def test_')} tests", ran.stderr)

    def test_with_a_database_in_memory_too(self):
        self.settings.write_text(
            self.settings.read_text() + 'del DATABASES["default"]["TEST"]\n'
        )

        ran = self.run_tests("shop.tests.test_orders")

        self.assertEqual(ran.returncode, 0, ran.stderr)

    def test_a_wrong_example_would_be_noticed(self):
        tasks_file = self.folder / "shop" / "tasks.py"
        tasks_file.write_text(tasks_file.read_text().replace("Order", "Odor"))

        ran = self.run_tests("shop.tests.test_orders.ReceiptTests")

        self.assertEqual(ran.returncode, 1)
        self.assertIn("'Odor 7' != 'Order 7'", ran.stderr)


SETTINGS = """
SECRET_KEY = "not a secret"
INSTALLED_APPS = ["django.contrib.contenttypes", "background_task", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
# Django 6.1 and later want to be told; earlier ones do not ask.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
"""


def examples(page):
    """Return the page's files by name; a file may come in several blocks."""
    files = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        name = re.match(r"# (\S+\.py)\n", block)
        assert name, f"this example does not say which file it is of:\n{block}"
        files[name[1]] = files.get(name[1], "") + block + "\n\n"
    return files


def in_seconds(seconds):
    return timezone.now() + timedelta(seconds=seconds)


def a_runner():
    now = timezone.now()
    return Runner(id="twice", pid=1, pid_started=1, started_at=now, trusted_until=now)
