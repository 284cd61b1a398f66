"""What `process_tasks` refuses before anything starts, and what it runs in-process."""

import math
import os
import signal
import threading
from io import StringIO

import psutil
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import TestCase, TransactionTestCase, override_settings

from background_task.models import CompletedTask, Task
from background_task.tasks import tasks
from tests.app import tasks as app_tasks

from .tools import make_task

# Options as call_command has them, and what the refusal has to name.
OPTIONS = [
    ({"workers": 0}, "--workers is 0"),
    ({"workers": "-1"}, "--workers is '-1'"),
    ({"workers": "two"}, "--workers is 'two'"),
    ({"workers": 1.5}, "--workers is 1.5"),
    ({"tasks_per_process": 0}, "--tasks-per-process is 0"),
    ({"tasks_per_process": "many"}, "--tasks-per-process is 'many'"),
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
    ({"queue": [":2"]}, "--queue is ':2': it must be NAME, or NAME:N"),
    ({"queue": ["mail:0"]}, "--queue is 'mail:0'"),
    ({"queue": ["mail:2", "mail:3"]}, "--queue names mail twice"),
    ({"queue": ["mail", "mail:3"]}, "--queue names mail twice"),
    ({"exclude_queue": [" "]}, "--exclude-queue has an empty name"),
    (
        {"queue": ["a:2", "b"], "exclude_queue": ["b", "a", "c"]},
        "--queue and --exclude-queue both name a, b",
    ),
    (
        {"queue": ["mail:2", "default:6"], "workers": 7},
        "--workers is 7, and the queues' own slots are 8 (mail:2, default:6)",
    ),
    (
        {"queue": ["mail:2", "a", "b"], "workers": 2},
        "(mail:2): none is left for a, b",
    ),
    (
        {"in_process": True, "queue": ["a", "mail:2"]},
        "--queue mail:2 does not go with --in-process",
    ),
    ({"in_process": True, "workers": 1}, "--workers does not go with --in-process"),
    (
        {"in_process": True, "tasks_per_process": 1},
        "--tasks-per-process does not go with --in-process",
    ),
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
    ("BACKGROUND_TASK_QUEUES", "mail"),
    ("BACKGROUND_TASK_QUEUES", [1]),
    ("BACKGROUND_TASK_QUEUES", ["mail:0"]),
    ("BACKGROUND_TASK_EXCLUDE_QUEUES", "mail"),
    ("BACKGROUND_TASK_EXCLUDE_QUEUES", [""]),
    ("BACKGROUND_TASK_TASKS_PER_PROCESS", 0),
    ("BACKGROUND_TASK_TASKS_PER_PROCESS", None),
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
    ("BACKGROUND_TASK_MAX_ATTEMPTS", "3"),
    ("MAX_ATTEMPTS", 2.5),
    ("MAX_RUN_TIME", "3600"),
    ("BACKOFF_MULTIPLIER", "4"),
    ("BACKOFF_MULTIPLIER", -1),
    ("BACKOFF_MULTIPLIER", math.nan),
    ("BACKOFF_MULTIPLIER", True),
]

# What the in-process runner goes by as well.
IN_PROCESS_TOO = {
    name
    for name, _ in SETTINGS
    if name.endswith(("MAX_ATTEMPTS", "MAX_RUN_TIME", "BACKOFF_MULTIPLIER"))
}


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
                for options in ({}, {"in_process": True}):
                    if options and name not in IN_PROCESS_TOO:
                        continue
                    refusal = self.refusal_of(**options)
                    self.assertIn(name, refusal)

    def test_a_setting_that_cannot_be_is_told_with_its_value_and_what_is_right(self):
        with override_settings(BACKGROUND_TASK_MAX_ATTEMPTS="3"):
            self.assertEqual(
                self.refusal_of(),
                "BACKGROUND_TASK_MAX_ATTEMPTS is '3'; it must be a whole number, 1 or "
                "more. Set BACKGROUND_TASK_MAX_ATTEMPTS = 3.",
            )

    def test_a_limit_that_is_misspelt_is_told_with_what_was_meant(self):
        overrides = {NAME: {"max_run_tme": 1}}
        with override_settings(BACKGROUND_TASK_OVERRIDES=overrides):
            self.assertIn(
                "max_run_tme: did you mean 'max_run_time'?", self.refusal_of()
            )

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

    def test_the_most_urgent_first_in_whichever_queue_it_is(self):
        for priority, queue in enumerate(("a", "b", "a", "b")):
            app_tasks.note(priority, queue=queue, priority=priority)

        self.run_here(in_process=True, queue=["a", "b"])

        self.assertEqual([args for args, _ in app_tasks.ran], [(3,), (2,), (1,), (0,)])

    def test_a_signal_is_heeded_after_the_task_that_runs(self):
        tasks.background(name="stop")(lambda: os.kill(os.getpid(), signal.SIGTERM))
        self.addCleanup(tasks._tasks.pop, "stop")
        tasks.get("stop")(queue="a", priority=1)
        app_tasks.note(queue="b")

        call_command("process_tasks", in_process=True, queue=["a", "b"])

        self.assertEqual(app_tasks.ran, [])
        self.assertEqual(Task.objects.get().queue, "b")

    def test_nothing_is_known_to_be_due_while_the_database_is_away(self):
        app_tasks.note()

        with self.assertLogs("background_task.tasks", "WARNING") as logs:
            refusal = self.run_refused(lambda sql: True)

        self.assertEqual(refusal.returncode, 75)
        self.assertIn("The queue is unavailable: server gone", str(refusal))
        self.assertIn("Failed to retrieve tasks. Database unreachable.", logs.output[0])

    def test_the_end_of_a_task_that_cannot_be_written(self):
        task = app_tasks.note()

        refusal = self.run_refused(lambda sql: sql.startswith("INSERT"))

        self.assertEqual(refusal.returncode, 75)
        self.assertIn(f"the end of task {task.pk} (tests.app.tasks.note)", str(refusal))
        self.assertIn("server gone", str(refusal))
        self.assertEqual(Task.objects.get().locked_by, str(os.getpid()))

    def run_refused(self, refused):
        """Run on a database that refuses some statements; return how it ended."""

        def refuse(execute, sql, params, many, context):
            if refused(sql):
                raise OperationalError("server gone")
            return execute(sql, params, many, context)

        with (
            connection.execute_wrapper(refuse),
            self.assertRaises(CommandError) as refusal,
        ):
            self.run_here(in_process=True)
        return refusal.exception

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
