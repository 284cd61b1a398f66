import math
import sys
import tempfile
from datetime import UTC, timedelta
from pathlib import Path
from unittest import mock

from django.core.checks import run_checks
from django.db import models
from django.test import TestCase, TransactionTestCase, override_settings

from background_task import checks, migrations

from .tools import model_pointing_at_tasks


def found():
    """Return this package's findings by their ids."""
    ours = (m for m in run_checks() if m.id and m.id.startswith("background_task."))
    return {message.id: message for message in ours}


class ChecksTests(TestCase):  # some of Django's checks ask the database
    def test_nothing_is_wrong_here(self):
        self.assertEqual(found(), {})

    def test_the_list_of_migrations_is_complete(self):
        folder = Path(migrations.__file__).parent

        self.assertEqual({f.stem for f in folder.glob("*.py")}, checks.MIGRATIONS)

    def test_a_stray_migration_is_named_by_its_path(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        stray = Path(folder) / "0003_alter_task_id.py"
        stray.touch()
        self.enterContext(mock.patch.object(migrations, "__path__", [folder]))

        message = found()["background_task.W001"]

        self.assertIn(f"Delete {stray}", message.hint)

    def test_another_distribution_of_the_package_is_an_error(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        info = folder / "django4_background_tasks-1.2.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: django4-background-tasks\nVersion: 1\n")
        (info / "top_level.txt").write_text("background_task\n")
        self.enterContext(mock.patch.object(sys, "path", [str(folder), *sys.path]))

        message = found()["background_task.E001"]

        self.assertIn("pip uninstall django4-background-tasks", message.hint)
        self.assertIn("`pip install --force-reinstall --no-deps .`", message.hint)

    def test_migrations_from_elsewhere_are_an_error(self):
        with override_settings(MIGRATION_MODULES={"background_task": "my.migrations"}):
            message = found()["background_task.E002"]

        self.assertIn("my.migrations", message.msg)

    def test_migrations_that_are_ours_or_off_are_fine(self):
        for module in ("background_task.migrations", None):
            with override_settings(MIGRATION_MODULES={"background_task": module}):
                self.assertEqual(found(), {})

    def test_migrations_may_be_off_for_every_app(self):
        class Off:
            def __contains__(self, label):
                return True

            def __getitem__(self, label):
                return None

        with override_settings(MIGRATION_MODULES=Off()):
            self.assertEqual(checks.check_migration_modules(), [])

    def test_a_run_time_of_nothing_is_an_error(self):
        for wrong in (0, -1, None, "3600", True, math.nan, math.inf):
            with self.subTest(wrong), override_settings(MAX_RUN_TIME=wrong):
                message = found()["background_task.E003"]

                self.assertIn("Set MAX_RUN_TIME to", message.hint)

    def test_the_setting_that_is_wrong_is_named(self):
        with override_settings(BACKGROUND_TASK_MAX_RUN_TIME=timedelta(hours=1)):
            message = found()["background_task.E003"]

        self.assertEqual(message.hint, "Set BACKGROUND_TASK_MAX_RUN_TIME = 3600.")

    def test_attempts_that_cannot_be_counted_are_an_error(self):
        for name in ("MAX_ATTEMPTS", "BACKGROUND_TASK_MAX_ATTEMPTS"):
            for wrong in ("3", 0, -1, None, True, 2.5, math.inf):
                with self.subTest(wrong), override_settings(**{name: wrong}):
                    message = found()["background_task.E004"]

                    self.assertIn(f"{name} is {wrong!r}; it must be", message.msg)
                    self.assertIn(f"Set {name}", message.hint)

    def test_a_back_off_that_cannot_be_computed_is_an_error(self):
        for wrong in ("4", -1, None, True, math.nan, math.inf, 101):
            with self.subTest(wrong), override_settings(BACKOFF_MULTIPLIER=wrong):
                message = found()["background_task.E005"]

                self.assertIn(f"BACKOFF_MULTIPLIER is {wrong!r}; it must", message.msg)

    def test_a_time_zone_that_is_none_is_an_error(self):
        for wrong in ("Europe/Berln", "", 2, True):
            with (
                self.subTest(wrong),
                override_settings(BACKGROUND_TASK_REPEAT_TIMEZONE=wrong),
            ):
                message = found()["background_task.E006"]

                self.assertIn(
                    f"BACKGROUND_TASK_REPEAT_TIMEZONE is {wrong!r}", message.msg
                )
                self.assertIn("Set BACKGROUND_TASK_REPEAT_TIMEZONE to", message.hint)

    def test_what_can_be_is_fine(self):
        for right in ({"MAX_ATTEMPTS": 1}, {"MAX_RUN_TIME": 0.5}):
            with self.subTest(right), override_settings(**right):
                self.assertEqual(found(), {})
        for right in ("Europe/Berlin", "UTC", UTC, None):
            with (
                self.subTest(right),
                override_settings(BACKGROUND_TASK_REPEAT_TIMEZONE=right),
            ):
                self.assertEqual(found(), {})
        for right in (0, 1.5, 4, 100):
            with self.subTest(right), override_settings(BACKOFF_MULTIPLIER=right):
                self.assertEqual(found(), {})


class ProtectedTaskTests(TransactionTestCase):
    def test_a_foreign_key_that_keeps_tasks_is_named(self):
        for on_delete in (models.PROTECT, models.RESTRICT, models.DO_NOTHING):
            with self.subTest(on_delete), model_pointing_at_tasks(on_delete):
                message = found()["background_task.W002"]

                self.assertIn("app.Loan.task", message.msg)
                self.assertIn(f"on_delete={on_delete.__name__}", message.msg)
                self.assertIn("SET_NULL", message.hint)

    def test_a_foreign_key_that_lets_them_go_is_fine(self):
        for on_delete, options in (
            (models.CASCADE, {}),
            (models.SET_NULL, {"null": True}),
            (models.DO_NOTHING, {"db_constraint": False}),
        ):
            with self.subTest(on_delete), model_pointing_at_tasks(on_delete, **options):
                self.assertEqual(found(), {})


class SettingNameTests(TestCase):
    @override_settings(
        BACKGROUND_TASK_MEMORY_LIMITS="512M", BACKGROUND_TASK_VIOLET_PAPER=1
    )
    def test_what_nothing_reads_is_warned_of(self):
        memory, violet = checks.check_setting_names()

        self.assertEqual(memory.id, "background_task.W003")
        self.assertIn("BACKGROUND_TASK_MEMORY_LIMITS is no setting", memory.msg)
        self.assertEqual(memory.hint, "Did you mean BACKGROUND_TASK_MEMORY_LIMIT?")
        self.assertIn("docs/settings.md", violet.hint)

    @override_settings(BACKGROUND_TASKS_MEMORY_LIMIT="512M")
    def test_the_name_of_the_package_is_no_prefix(self):
        (warning,) = checks.check_setting_names()

        self.assertIn("BACKGROUND_TASKS_MEMORY_LIMIT is no setting", warning.msg)
        self.assertEqual(warning.hint, "Did you mean BACKGROUND_TASK_MEMORY_LIMIT?")

    @override_settings(BACKGROUND_TASK_MAX_ATTEMPTS=3, BACKGROUND_TASK_MAX_RUN_TIME=3)
    def test_the_longer_names_of_two_settings_are_known(self):
        self.assertEqual(checks.check_setting_names(), [])

    def test_an_order_that_is_none_is_warned_of(self):
        for ordering in ("asc", "UP", None):
            with override_settings(BACKGROUND_TASK_PRIORITY_ORDERING=ordering):
                (warning,) = checks.check_priority_ordering()
            self.assertEqual(warning.id, "background_task.W004")
            self.assertIn(repr(ordering), warning.msg)
        self.assertEqual(checks.check_priority_ordering(), [])
