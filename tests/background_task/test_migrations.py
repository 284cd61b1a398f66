import os
import subprocess
import sys
import tempfile
from importlib import import_module

import pymysql
from django.apps import apps
from django.core.management import call_command
from django.db import NotSupportedError, connection, models
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.test import SimpleTestCase, TransactionTestCase
from django.utils import timezone

from background_task.models import CompletedTask, Runner, Task

UPSTREAM = ("background_task", "0002_auto_20170927_1109")
LATEST = ("background_task", "0013_attempt_outcome")


class StateTests(SimpleTestCase):
    def test_nothing_is_left_to_migrate_whatever_the_projects_ids_are(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        command = ["makemigrations", "background_task", "--check"]
        for field in ("AutoField", "BigAutoField"):
            with self.subTest(field):
                environment = os.environ | {
                    "TEST_DATABASE_URL": "sqlite://",
                    "TEST_FOLDER": folder,
                    "TEST_SETTINGS": f'DEFAULT_AUTO_FIELD="django.db.models.{field}"',
                }

                subprocess.run(
                    [sys.executable, "-m", "django", *command],
                    env=environment,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )

    def test_the_tables_have_upstreams_names(self):
        self.assertEqual(Task._meta.db_table, "background_task")
        self.assertEqual(CompletedTask._meta.db_table, "background_task_completedtask")
        self.assertEqual(Runner._meta.db_table, "background_task_runner")

    def test_the_ids_do_not_follow_the_projects_setting(self):
        config = apps.get_app_config("background_task")

        self.assertEqual(config.default_auto_field, "django.db.models.AutoField")
        self.assertIs(type(Task._meta.pk), models.AutoField)
        self.assertIs(type(CompletedTask._meta.pk), models.AutoField)

    def test_there_is_one_last_migration(self):
        loader = MigrationLoader(None)

        self.assertEqual(loader.graph.leaf_nodes("background_task"), [LATEST])


class TooOldTests(SimpleTestCase):
    """There is no such server here: only what it is told to have is looked at."""

    def statement_of(self, version):
        """Return what migration 0012 has a MySQL of this version execute."""
        name = "background_task.migrations.0012_control_to_the_letter"
        pymysql.install_as_MySQLdb()
        backend = import_module("django.db.backends.mysql.base")
        it = backend.DatabaseWrapper({**connection.settings_dict, "OPTIONS": {}})
        it.mysql_server_data = {"version": version}
        editor = it.SchemaEditorClass(it, collect_sql=True)
        import_module(name).compare_to_the_letter(apps, editor)
        return " ".join(editor.collected_sql)

    def test_a_mysql_that_cannot_compare_to_the_letter_is_told_from_a_mistake(self):
        with self.assertRaisesMessage(NotSupportedError, "which 8.0.17 brought"):
            self.statement_of("8.0.16")

    def test_one_that_can_does(self):
        for version in ("8.0.17", "8.4.6", "9.1.0"):
            with self.subTest(version):
                self.assertIn("utf8mb4_0900_bin", self.statement_of(version))


class UpgradeTests(TransactionTestCase):
    def tearDown(self):
        self.migrate(LATEST)
        call_command("migrate", verbosity=0)

    def migrate(self, target):
        executor = MigrationExecutor(connection)
        executor.migrate([target])

    def test_upstreams_rows_stay_and_the_runners_come(self):
        self.migrate(UPSTREAM)
        tables = connection.introspection.table_names()
        self.assertNotIn("background_task_runner", tables)
        former = MigrationExecutor(connection).loader.project_state([UPSTREAM]).apps
        former.get_model("background_task", "Task").objects.create(
            task_name="mytask", task_params="[[1], {}]", run_at=timezone.now()
        )

        self.migrate(LATEST)

        self.assertEqual(Task.objects.get().params(), ([1], {}))
        self.assertFalse(Runner.objects.exists())
