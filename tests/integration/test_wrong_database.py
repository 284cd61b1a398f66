"""Under Django's test runner the settings name the real database: never touch it."""

import os
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest
from django.db import connection
from django.db.utils import ConnectionHandler

from .tools import LifecycleTestCase, effective_databases

DRIVER = {
    "sqlite": "",
    "postgresql": "",
    "mysql": "import pymysql\npymysql.install_as_MySQLdb()",
}
SETTINGS = """
{driver}
SECRET_KEY = "not a secret"
INSTALLED_APPS = ["django.contrib.contenttypes", "background_task", "shop"]
DATABASES = {{"default": {database!r}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
TASKS = """
import os
from background_task import background

@background
def note(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
"""
TESTS = """
import os, tempfile
from io import StringIO
from django.core.management import call_command
from django.db import connection
from django.test import TestCase, TransactionTestCase
from background_task.models import CompletedTask, Task
from shop.tasks import note

class Mixin:
    def run_two(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "pids")
        note(path)
        note(path)
        out, err = StringIO(), StringIO()
        call_command(
            "process_tasks", until_empty=True, workers=2, stdout=out, stderr=err
        )
        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(CompletedTask.objects.succeeded().count(), 2)
        with open(path) as file:
            return {int(line) for line in file}, out.getvalue(), err.getvalue()

class CommittedTests(Mixin, TransactionTestCase):
    def test_supervised(self):
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            self.skipTest("in memory")
        pids, out, err = self.run_two()
        self.assertEqual(len(pids), 2)
        self.assertNotIn(os.getpid(), pids)
        self.assertIn("2 workers", out)
        self.assertEqual(err, "")

    def test_in_memory(self):
        if not (connection.vendor == "sqlite" and connection.is_in_memory_db()):
            self.skipTest("not in memory")
        pids, out, err = self.run_two()
        self.assertEqual(pids, {os.getpid()})
        self.assertEqual(err.count("Running the tasks in this process"), 1)
        self.assertIn("memory", err)

class AtomicTests(Mixin, TestCase):
    def test_in_process(self):
        pids, out, err = self.run_two()
        self.assertEqual(pids, {os.getpid()})
        self.assertEqual(err.count("Running the tasks in this process"), 1)
        self.assertIn("a transaction is open", err)
"""


class WrongDatabaseTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_the_test_database_is_the_one_that_is_worked_on(self):
        database = self.make_project(in_memory=False)
        self.manage("migrate", "--verbosity", "0")

        output = self.manage("test", "shop", "--noinput")

        self.assertRegex(output, r"Ran 3 tests[^$]*OK \(skipped=1\)")
        self.assertEqual(self.rows_in(database), 0)

    def test_a_database_in_memory_is_worked_on_in_this_process(self):
        self.make_project(in_memory=True)

        output = self.manage("test", "shop", "--noinput")

        self.assertRegex(output, r"Ran 3 tests[^$]*OK \(skipped=1\)")

    def make_project(self, *, in_memory):
        database = self.real_database(in_memory)
        app = self.folder / "shop"
        app.mkdir()
        settings = SETTINGS.format(database=database, driver=DRIVER[connection.vendor])
        (self.folder / "real_settings.py").write_text(settings)
        (app / "__init__.py").touch()
        (app / "tasks.py").write_text(textwrap.dedent(TASKS))
        (app / "tests.py").write_text(textwrap.dedent(TESTS))
        return database

    def real_database(self, in_memory):
        """Return a database of its own on the session's server, dropped afterwards."""
        if connection.vendor == "sqlite":
            test = {} if in_memory else {"NAME": str(self.folder / "test.sqlite3")}
            return {
                "ENGINE": connection.settings_dict["ENGINE"],
                "NAME": str(self.folder / "real.sqlite3"),
                "TEST": test,
            }
        name = f"real_{os.getpid()}"
        self.execute(f"CREATE DATABASE {name}")
        self.addCleanup(self.execute, f"DROP DATABASE {name}")
        engine = {"ENGINE": connection.settings_dict["ENGINE"]}
        return engine | effective_databases()["default"] | {"NAME": name}

    def execute(self, statement):
        with connection.cursor() as cursor:
            cursor.execute(statement)

    def manage(self, *arguments):
        code = (
            "import sys; from django.core.management import execute_from_command_line;"
            " execute_from_command_line(sys.argv)"
        )
        manage = self.folder / "manage.py"
        manage.write_text(code)
        ran = subprocess.run(
            [sys.executable, str(manage), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "real_settings"},
        )
        output = ran.stdout + ran.stderr
        self.assertEqual(ran.returncode, 0, output)
        return output

    def rows_in(self, database):
        real = ConnectionHandler({"default": database})["default"]
        with closing(real), real.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM background_task) + (SELECT count(*)"
                " FROM background_task_completedtask) + (SELECT count(*) FROM"
                " background_task_runner)"
            )
            return cursor.fetchone()[0]
