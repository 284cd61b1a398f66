"""What `process_tasks` refuses before anything starts, and what it runs in-process."""

import threading
from io import StringIO

import psutil
from django.core.management import CommandError, call_command
from django.test import TestCase, TransactionTestCase, override_settings

from background_task.models import CompletedTask, Task
from tests.app import tasks as app_tasks

from .tools import make_task

# Options as call_command has them, and what the refusal has to name.
OPTIONS = [
    ({"workers": 0}, "--workers is 0"),
    ({"workers": "-1"}, "--workers is '-1'"),
    ({"workers": "two"}, "--workers is 'two'"),
    ({"workers": 1.5}, "--workers is 1.5"),
    ({"memory_limit": "512Q"}, "--memory-limit is '512Q'"),
    ({"memory_limit": "-512M"}, "--memory-limit is '-512M'"),
    ({"memory_limit": 0}, "--memory-limit is 0"),
    ({"drain_timeout": -1}, "--drain-timeout is -1"),
    ({"drain_timeout": "soon"}, "--drain-timeout is 'soon'"),
    ({"sleep": 0}, "--sleep is 0"),
    ({"sleep": -1}, "--sleep is -1"),
    ({"duration": "long"}, "--duration is 'long'"),
    ({"queue": [""]}, "--queue has an empty name"),
    ({"queue": ["a", " "]}, "--queue has an empty name"),
    ({"queue": ""}, "--queue has an empty name"),
    ({"in_process": True, "workers": 1}, "--workers does not go with --in-process"),
    (
        {"in_process": True, "memory_limit": "1G"},
        "--memory-limit does not go with --in-process",
    ),
    (
        {"in_process": True, "drain_timeout": 1},
        "--drain-timeout does not go with --in-process",
    ),
]
NAME = "tests.app.tasks.note"
SETTINGS = [
    ("BACKGROUND_TASK_WORKERS", 0),
    ("BACKGROUND_TASK_WORKERS", "two"),
    ("BACKGROUND_TASK_MEMORY_LIMIT", "512Q"),
    ("BACKGROUND_TASK_MEMORY_LIMIT", -1),
    ("BACKGROUND_TASK_GRACE", -1),
    ("BACKGROUND_TASK_GRACE", None),
    ("BACKGROUND_TASK_DRAIN_TIMEOUT", -1),
    ("BACKGROUND_TASK_START_TIMEOUT", 0),
    ("BACKGROUND_TASK_LEASE", 0),
    ("BACKGROUND_TASK_LEASE", "half a minute"),
    ("MAX_RUN_TIME", -1),
    ("MAX_RUN_TIME", None),
    ("BACKGROUND_TASK_MAX_RUN_TIME", 0),
    ("BACKGROUND_TASK_OVERRIDES", []),
    ("BACKGROUND_TASK_OVERRIDES", {NAME: {"max_run_tme": 1}}),
    ("BACKGROUND_TASK_OVERRIDES", {NAME: {"max_run_time": -1}}),
    ("BACKGROUND_TASK_OVERRIDES", {NAME: {"memory_limit": "512Q"}}),
    ("MAX_ATTEMPTS", 0),
    ("MAX_ATTEMPTS", "three"),
    ("BACKGROUND_TASK_MAX_ATTEMPTS", None),
]


class RefusalTests(TransactionTestCase):
    def refusal_of(self, **options):
        """Return why it is refused; nothing has been started then."""
        before = psutil.Process().children()
        stdout = StringIO()
        with self.assertRaises(CommandError) as refusal:
            call_command("process_tasks", until_empty=True, stdout=stdout, **options)
        self.assertEqual(psutil.Process().children(), before)
        self.assertEqual(stdout.getvalue(), "")
        return str(refusal.exception)

    def test_options_that_cannot_be(self):
        for options, text in OPTIONS:
            with self.subTest(**options):
                self.assertIn(text, self.refusal_of(**options))

    def test_settings_that_cannot_be(self):
        for name, value in SETTINGS:
            with self.subTest(**{name: value}), override_settings(**{name: value}):
                self.assertIn(name, self.refusal_of())

    def test_the_old_settings_for_workers_too(self):
        with override_settings(
            BACKGROUND_TASK_RUN_ASYNC=True, BACKGROUND_TASK_ASYNC_THREADS=0
        ):
            self.assertIn("BACKGROUND_TASK_ASYNC_THREADS is 0", self.refusal_of())

    def test_off_the_main_thread(self):
        refusals = []
        thread = threading.Thread(target=lambda: refusals.append(self.refusal_of()))

        thread.start()
        thread.join()

        self.assertIn("main thread", refusals[0])


class InProcessTests(TransactionTestCase):
    def setUp(self):
        app_tasks.ran.clear()
        self.addCleanup(app_tasks.ran.clear)

    def run_here(self, **options):
        before = psutil.Process().children()
        errors = StringIO()
        call_command("process_tasks", until_empty=True, stderr=errors, **options)
        self.assertEqual(psutil.Process().children(), before)
        return errors.getvalue()

    def test_asked_for_it_runs_here_and_starts_nothing(self):
        app_tasks.note("here")
        make_task("somebody.elses.task")

        said = self.run_here(in_process=True)

        self.assertEqual(app_tasks.ran, [(("here",), {})])
        self.assertEqual(CompletedTask.objects.get().attempts, 1)
        self.assertEqual(Task.objects.get().attempts, 0)
        self.assertEqual(said, "")

    def test_only_the_queues_that_are_named(self):
        for queue in ("a", "b", "c", None):
            app_tasks.note(queue, queue=queue)

        self.run_here(in_process=True, queue=["a", "b"])

        self.assertEqual([args for args, _ in app_tasks.ran], [("a",), ("b",)])

    def test_the_time_runs_out(self):
        call_command("process_tasks", in_process=True, duration=0.01)

        self.assertEqual(app_tasks.ran, [])


class InATransactionTests(TestCase):
    def test_what_nobody_else_can_see_is_run_here_and_that_is_said_once(self):
        self.addCleanup(app_tasks.ran.clear)
        for number in range(2):
            app_tasks.note(number)
        errors = StringIO()

        call_command("process_tasks", until_empty=True, workers=2, stderr=errors)

        self.assertEqual(len(app_tasks.ran), 2)
        said = errors.getvalue()
        self.assertEqual(said.count("Running the tasks in this process"), 1)
        self.assertIn("a transaction is open", said)
