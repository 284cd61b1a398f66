"""What `process_tasks` refuses, and what it is told to leave alone."""

import json
import os
import signal
from io import StringIO
from unittest import skipUnless

import psutil
from django.core.management import call_command
from django.db import connection, connections

from background_task.models import Runner
from background_task.tasks import tasks
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    completed,
    effective_databases,
    refused,
    row,
    run_until_empty,
    supervised,
)


class RefusalTests(LifecycleTestCase):
    def test_the_command_line_says_it_in_one_line(self):
        output = refused("--workers", 0, status=2)

        self.assertEqual(
            output,
            "CommandError: --workers is '0': it must be a whole number, 1 or more\n",
        )

    def test_a_command_line_that_cannot_be_read_is_status_2(self):
        for options in (["--wrokers", 1], ["--workers"], ["--queue"]):
            with self.subTest(options), supervised(*options) as runner:
                self.assertEqual(runner.ended(), 2)
                self.assertIn("error: ", runner.output)

    def test_a_setting_that_cannot_be_is_status_2(self):
        for options in ([], ["--in-process"]):
            with self.subTest(options):
                settings = {"BACKGROUND_TASK_EXCLUDE_QUEUES": "mail"}
                output = refused(*options, settings=settings, status=2)

                self.assertIn("BACKGROUND_TASK_EXCLUDE_QUEUES is 'mail'", output)

    def test_a_decorators_limit_that_cannot_be_names_the_task(self):
        with self.a_project_with(
            "from background_task import background\n"
            "@background(name='greedy', memory_limit='512Q')\n"
            "def greedy(): pass\n"
        ) as project:
            output = refused(**project)

        self.assertIn("@background(name='greedy', memory_limit='512Q')", output)
        self.assertIn("Task greedy: memory_limit of @background is '512Q'", output)
        self.assertEqual(Runner.objects.count(), 0)

    def test_a_forgotten_migrate_is_said_once(self):
        empty = self.folder / "empty.sqlite3"
        databases = effective_databases()
        databases["default"]["NAME"] = str(empty)

        output = refused(databases=databases)

        why = "The tables of background_task"
        self.assertEqual(output.count(f"CommandError: {why}"), 1)
        self.assertEqual(output.count(f"Cannot go on: {why}"), 1)
        self.assertEqual(output.count("manage.py migrate background_task"), 2)
        self.assertNotIn("Traceback", output)

    def test_a_forgotten_migrate_is_said_in_process_too(self):
        databases = effective_databases()
        databases["default"]["NAME"] = str(self.folder / "empty.sqlite3")

        output = refused("--in-process", "--until-empty", databases=databases)

        self.assertIn("manage.py migrate background_task", output)
        self.assertNotIn("unreachable", output)

    def test_tasks_that_cannot_be_imported_are_told_once(self):
        task = misbehaving.work(str(self.journal), "untouched")

        with self.a_project_with("import a_module_that_is_missing\n") as project:
            outputs = [refused(**project), refused("--in-process", **project)]

        for output in outputs:
            self.assertIn("CommandError: The project cannot be set up:\n", output)
            self.assertEqual(output.count("Traceback"), 1)
        logged = (
            "ERROR Cannot go on: The project cannot be set up: ModuleNotFoundError: "
            "No module named 'a_module_that_is_missing'\n"
        )
        self.assertIn(logged, outputs[0])
        self.assertEqual(outputs[0].count("No module named 'a_module_that"), 2)
        self.assertEqual(outputs[1].count("No module named 'a_module_that"), 1)
        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
        self.assertEqual(Runner.objects.count(), 0)

    def test_tasks_whose_import_kills_the_process(self):
        with self.a_project_with("import os\nos._exit(3)\n") as project:
            output = refused(**project)

        for said in ("CommandError", "Cannot go on"):
            self.assertEqual(output.count(f"{said}: The project cannot be set up:"), 1)
        self.assertEqual(output.count("died without a word"), 2)
        self.assertEqual(Runner.objects.count(), 0)

    def a_project_with(self, source):
        """Return how to supervise a project with one more app, of this tasks.py."""
        app = self.folder / "one_more_app"
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "tasks.py").write_text(source)
        return _Project(self.folder)


class _Project:
    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        from django.conf import settings

        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        return {
            "settings": {"INSTALLED_APPS": [*settings.INSTALLED_APPS, "one_more_app"]},
            "environment": {"PYTHONPATH": path.rstrip(os.pathsep)},
        }

    def __exit__(self, *about):
        pass


class UnknownNameTests(LifecycleTestCase):
    def test_a_due_task_that_nobody_knows_is_told_of_and_left_alone(self):
        task = tasks._runner.schedule("shop.tasks.renamed", (), {})

        for way in ("--workers=1", "--in-process"):
            output = run_until_empty(way)

            self.assertEqual(output.count("WARNING"), 1, output)
            self.assertIn("left alone: shop.tasks.renamed", output)
            self.assertIn("After a deploy, restart process_tasks.", output)
            self.assertIn("them: manage.py tasks_cancel --name NAME.", output)
            self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))

    def test_a_task_that_falls_due_after_the_first_look_is_told_of_too(self):
        """The looks for such tasks are a minute apart; the run may end before."""
        with supervised("--until-empty", "--workers", 2) as runner:
            first = misbehaving.wait_for(
                str(self.journal), "first", str(self.folder / "go on")
            )
            self.journal.pid_of("first")
            task = tasks._runner.schedule("shop.tasks.renamed", (), {})
            (self.folder / "go on").touch()
            self.assertEqual(runner.ended(), 0)
            output = runner.output

        self.assertTrue(completed(first))
        self.assertEqual(output.count("left alone: shop.tasks.renamed"), 1)
        self.assertEqual(row(task).attempts, 0)


class UnknownQueueTests(LifecycleTestCase):
    def test_a_queue_that_nobody_uses_is_told_of(self):
        tasks._runner.schedule("shop.tasks.job", (), {}, queue="said when called")

        for way in ("--workers=1", "--in-process"):
            output = run_until_empty(
                way, "--queue=nosuch", "--queue=slow", "--queue=said when called"
            )

            self.assertIn("and none is in it: nosuch.", output)
            self.assertEqual(output.count("names this queue"), 1, output)


class OverridesTests(LifecycleTestCase):
    def test_limits_of_a_task_that_is_not_there_are_told_of_once(self):
        overrides = {
            "tests.app.misbehaving.wrok": {"max_run_time": 60},
            "tests.app.misbehaving.work": {"max_run_time": 60},
        }
        for way in ("template", "spawn"):
            output = run_until_empty(
                "--start-method",
                way,
                settings={"BACKGROUND_TASK_OVERRIDES": overrides},
            )

            self.assertEqual(output.count("WARNING"), 1, output)
            self.assertIn("sets limits for 'tests.app.misbehaving.wrok'", output)
            self.assertIn("Did you mean 'tests.app.misbehaving.work'", output)


class QueueTests(LifecycleTestCase):
    def test_only_the_queues_that_are_named(self):
        queued = {
            queue: misbehaving.work(str(self.journal), str(queue), queue=queue)
            for queue in ("a", "b", "c", None)
        }

        output = run_until_empty("--queue", "a", "--queue", "b", "--workers", 2)

        self.assertIn("queues: a, b", output)
        self.assertEqual(sorted(self.journal.ended()), ["a", "b"])
        for queue in ("c", None):
            self.assertIsNone(row(queued[queue]).locked_by)

    def test_the_first_line_tells_what_is_asked_for(self):
        output = run_until_empty(
            "--workers", 3, "--memory-limit", "1.5G", "--drain-timeout", 7
        )

        first = output.splitlines()[0]
        name = connections["default"].settings_dict["NAME"]
        for part in (str(name), "every queue", "3 workers", "1536 MiB", "drain 7 s"):
            self.assertIn(part, first)

    @skipUnless(connection.vendor == "sqlite", "SQLite alone has this option")
    def test_several_workers_on_sqlite_that_do_not_wait_are_warned_of(self):
        databases = effective_databases()
        warning = 'DATABASES["default"]["OPTIONS"] = '

        said = run_until_empty("--workers", 2)
        given = json.loads(said.partition(warning)[2].partition("\n")[0])
        self.assertEqual(
            given,
            {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL;",
            },
        )
        self.assertNotIn(warning, run_until_empty("--workers", 1))
        databases["default"]["OPTIONS"] = given
        said = run_until_empty("--workers", 2, databases=databases)
        self.assertNotIn(warning, said)

    def test_called_in_this_process_it_supervises_and_leaves_no_trace(self):
        # For good, since setproctitle reads it once; set when the command is imported.
        os.environ["SPT_NOENV"] = "1"
        before = signal.getsignal(signal.SIGTERM), dict(os.environ)
        task = misbehaving.work(str(self.journal), "there")

        call_command("process_tasks", until_empty=True, workers=2, stdout=StringIO())

        self.assertEqual(completed(task).attempts, 1)
        self.assertNotIn(os.getpid(), {e[1] for e in self.journal.entries()})
        self.assertEqual((signal.getsignal(signal.SIGTERM), dict(os.environ)), before)
        # multiprocessing's own helper may stay.
        left = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        self.assertEqual([one for one in left if "resource_tracker" not in one], [])
