"""The names, signatures and columns that projects written for 1.2.8 rely on."""

import importlib
import inspect
import subprocess
import sys
from io import StringIO
from unittest import mock

from django.apps import apps
from django.contrib import admin
from django.core.management import call_command
from django.db import connection, models
from django.db.utils import OperationalError
from django.dispatch import Signal
from django.test import SimpleTestCase, TestCase

from background_task import __version__, background, signals
from background_task.exceptions import BackgroundTaskError, InvalidTaskError
from background_task.models import CompletedTask, Task, TaskManager
from background_task.tasks import DBTaskRunner, Tasks, TaskSchedule, tasks
from background_task.utils import TTW_FAST, TTW_SLOW

NAMES = {
    "background_task": "background __version__",
    "background_task.models": "Task CompletedTask TaskManager TaskQuerySet "
    "CompletedTaskQuerySet",
    "background_task.tasks": "tasks Tasks TaskProxy TaskSchedule DBTaskRunner "
    "bg_runner autodiscover logger background",
    "background_task.signals": "task_created task_started task_error "
    "task_rescheduled task_successful task_failed task_finished",
    "background_task.exceptions": "BackgroundTaskError InvalidTaskError",
    "background_task.settings": "app_settings",
    "background_task.utils": "SignalManager TTW_SLOW TTW_FAST",
    "background_task.admin": "TaskAdmin CompletedTaskAdmin inc_priority dec_priority",
    "background_task.apps": "BackgroundTasksAppConfig",
}

# What is asked for by position or by name: (name, default) in upstream's order.
NO = inspect.Parameter.empty
SIGNATURES = [
    (
        tasks.background,
        {
            "name": None,
            "schedule": None,
            "queue": None,
            "remove_existing_tasks": False,
        },
    ),
    (
        DBTaskRunner().schedule,
        {
            "task_name": NO,
            "args": NO,
            "kwargs": NO,
            "run_at": None,
            "priority": 0,
            "action": 0,
            "queue": None,
            "verbose_name": None,
            "creator": None,
            "repeat": None,
            "repeat_until": None,
            "remove_existing_tasks": False,
        },
    ),
    (
        Task.objects.new_task,
        {
            "task_name": NO,
            "args": None,
            "kwargs": None,
            "run_at": None,
            "priority": 0,
            "queue": None,
            "verbose_name": None,
            "creator": None,
            "repeat": None,
            "repeat_until": None,
            "remove_existing_tasks": False,
        },
    ),
    (Task.objects.get_task, {"task_name": NO, "args": None, "kwargs": None}),
    (Task.objects.drop_task, {"task_name": NO, "args": None, "kwargs": None}),
    (Task.objects.find_available, {"queue": None}),
    (Task.objects.unlocked, {"now": NO}),
    (Task.objects.locked, {"now": NO}),
    (Task.objects.failed, {}),
    (Task.objects.created_by, {"creator": NO}),
    (CompletedTask.objects.created_by, {"creator": NO}),
    (CompletedTask.objects.failed, {"within": None}),
    (CompletedTask.objects.succeeded, {"within": None}),
    (TaskSchedule, {"run_at": None, "priority": None, "action": None}),
    (TaskSchedule.create, {"schedule": NO}),
    (TaskSchedule().merge, {"schedule": NO}),
    (tasks.run_task, {"task_name": NO, "args": None, "kwargs": None}),
    (tasks.run_next_task, {"queue": None}),
    (DBTaskRunner().get_task_to_run, {"tasks": NO, "queue": None}),
    (DBTaskRunner().run_task, {"tasks": NO, "task": NO}),
    (DBTaskRunner().run_next_task, {"tasks": NO, "queue": None}),
    (Task().lock, {"locked_by": NO}),
    (Task().reschedule, {"type": NO, "err": NO, "traceback": NO}),
]

NULL = {"null": True, "blank": True}
INDEX = {"db_index": True}
COLUMNS = {
    "id": (models.AutoField, {"blank": True}),
    "task_name": (models.CharField, {"max_length": 190, **INDEX}),
    "task_params": (models.TextField, {}),
    "task_hash": (models.CharField, {"max_length": 40, **INDEX}),
    "verbose_name": (models.CharField, {"max_length": 255, **NULL}),
    "priority": (models.IntegerField, {"default": 0, **INDEX}),
    "run_at": (models.DateTimeField, INDEX),
    "repeat": (models.BigIntegerField, {"default": 0}),
    "repeat_until": (models.DateTimeField, NULL),
    "queue": (models.CharField, {"max_length": 190, **NULL, **INDEX}),
    "attempts": (models.IntegerField, {"default": 0, **INDEX}),
    "failed_at": (models.DateTimeField, NULL | INDEX),
    "last_error": (models.TextField, {"blank": True}),
    "locked_by": (models.CharField, {"max_length": 64, **NULL, **INDEX}),
    "locked_at": (models.DateTimeField, NULL | INDEX),
    "creator_content_type": (models.ForeignKey, NULL),
    "creator_object_id": (models.PositiveIntegerField, NULL),
}


class ImportTests(SimpleTestCase):
    def test_every_name_is_there(self):
        for module, names in NAMES.items():
            for name in names.split():
                with self.subTest(f"{module}.{name}"):
                    self.assertTrue(hasattr(importlib.import_module(module), name))

    def test_the_package_alone_needs_neither_django_nor_settings(self):
        code = (
            "import sys, background_task; background_task.__version__; "
            "sys.exit('django' in sys.modules)"
        )

        subprocess.run([sys.executable, "-c", code], check=True)

    def test_the_decorator_is_the_global_registrys(self):
        self.assertEqual(background, tasks.background)

    def test_signatures(self):
        for function, expected in SIGNATURES:
            with self.subTest(function):
                given = {
                    name: parameter.default
                    for name, parameter in inspect.signature(
                        function
                    ).parameters.items()
                    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
                }

                self.assertEqual(list(given.items()), list(expected.items()))

    def test_errors_carry_details(self):
        self.assertEqual(str(BackgroundTaskError("no")), "no")
        self.assertIsNone(BackgroundTaskError("no").errors)
        self.assertEqual(BackgroundTaskError("no", errors=[1]).errors, [1])
        self.assertEqual(InvalidTaskError("no", [2]).errors, [2])
        self.assertTrue(issubclass(InvalidTaskError, BackgroundTaskError))

    def test_the_app(self):
        config = apps.get_app_config("background_task")

        self.assertEqual(type(config).__name__, "BackgroundTasksAppConfig")
        self.assertEqual(config.name, "background_task")
        self.assertEqual(config.verbose_name, f"Background Tasks ({__version__})")

    def test_the_pace(self):
        self.assertEqual((TTW_SLOW, TTW_FAST), ([0.5, 1.5], [0.0, 0.1]))

    def test_signals_take_no_argument_for_another(self):
        for name in NAMES["background_task.signals"].split():
            signal = getattr(signals, name)
            with self.subTest(name):
                self.assertIsInstance(signal, Signal)
                self.assertIs(signal.use_caching, False)

    def test_the_admin_knows_both_models(self):
        for model, name in ((Task, "TaskAdmin"), (CompletedTask, "CompletedTaskAdmin")):
            registered = admin.site._registry[model]
            with self.subTest(name):
                self.assertEqual(type(registered).__name__, name)
                self.assertEqual(
                    list(registered.search_fields), ["task_name", "task_params"]
                )


class ModelTests(TestCase):
    def test_the_columns(self):
        for model in (Task, CompletedTask):
            fields = {field.name: field for field in model._meta.concrete_fields}
            for name, (kind, about) in COLUMNS.items():
                with self.subTest(f"{model.__name__}.{name}"):
                    field = fields[name]
                    self.assertIs(type(field), kind)
                    for fact in ("null", "blank"):
                        self.assertEqual(getattr(field, fact), about.get(fact, False))
                    if kind is not models.ForeignKey:  # which has an index anyway
                        self.assertEqual(field.db_index, about.get("db_index", False))
                    if "max_length" in about:
                        self.assertEqual(field.max_length, about["max_length"])
                    if "default" in about:
                        self.assertEqual(field.default, about["default"])

    def test_columns_of_our_own_can_be_left_out(self):
        """A project that went back to 1.2.8 can still insert rows."""
        for model in (Task, CompletedTask):
            for field in model._meta.concrete_fields:
                if field.name not in COLUMNS:
                    with self.subTest(f"{model.__name__}.{field.name}"):
                        self.assertTrue(field.null or field.has_db_default())

    def test_the_content_type_goes_with_its_tasks(self):
        for model, name in (
            (Task, "background_task"),
            (CompletedTask, "completed_background_task"),
        ):
            with self.subTest(name):
                relation = model._meta.get_field("creator_content_type").remote_field
                self.assertEqual(relation.related_name, name)
                self.assertIs(relation.on_delete, models.CASCADE)

    def test_the_constants(self):
        constants = {
            "NEVER": 0,
            "HOURLY": 3600,
            "DAILY": 86_400,
            "WEEKLY": 604_800,
            "EVERY_2_WEEKS": 1_209_600,
            "EVERY_4_WEEKS": 2_419_200,
        }
        for name, value in constants.items():
            self.assertEqual(getattr(Task, name), value, name)
        self.assertEqual(
            (
                TaskSchedule.SCHEDULE,
                TaskSchedule.RESCHEDULE_EXISTING,
                TaskSchedule.CHECK_EXISTING,
            ),
            (0, 1, 2),
        )

    def test_the_manager_is_of_the_named_class(self):
        self.assertIsInstance(Task.objects, TaskManager)

    def test_a_project_that_sets_nothing_hears_no_complaint_of_the_ids(self):
        code = (
            "import django, sys\n"
            "from django.conf import settings\n"
            "from django.core.checks import run_checks\n"
            "apps = ['django.contrib.contenttypes', 'background_task']\n"
            "settings.configure(INSTALLED_APPS=apps)\n"
            "django.setup()\n"
            "sys.exit(run_checks() or None)\n"
        )

        subprocess.run([sys.executable, "-c", code], check=True)

    def test_the_first_migration_makes_the_indexes_that_upstreams_made(self):
        if connection.vendor != "postgresql":
            self.skipTest("counted on PostgreSQL")

        sql = call_command("sqlmigrate", "background_task", "0001", stdout=StringIO())

        self.assertEqual(sql.count("CREATE INDEX"), 28)
        self.assertIn("varchar_pattern_ops", sql)


class LoggerTests(TestCase):
    """Projects put their own logger into `background_task.tasks` while they test."""

    def setUp(self):
        self.tasks = Tasks()
        self.logger = self.enterContext(mock.patch("background_task.tasks.logger"))

    def run_task(self, function):
        self.tasks.background(name="job")(function)()
        return self.tasks.run_next_task()

    def test_a_success_is_neither_warned_of_nor_an_error(self):
        self.run_task(lambda: None)

        self.assertTrue(self.logger.info.called)
        self.assertFalse(self.logger.warning.called)
        self.assertFalse(self.logger.error.called)

    def test_a_failure_is_an_error_and_not_a_warning(self):
        def fail():
            raise ValueError

        with self.assertLogs("background_task.models", "WARNING"):
            self.run_task(fail)

        self.assertTrue(self.logger.error.called)
        self.assertFalse(self.logger.warning.called)

    def test_a_database_that_is_away_is_a_warning_and_not_an_error(self):
        def refuse(execute, sql, params, many, context):
            raise OperationalError("server gone")

        self.tasks.background(name="job")(print)
        with connection.execute_wrapper(refuse):
            self.assertFalse(self.tasks.run_next_task())

        self.assertTrue(self.logger.warning.called)
        self.assertFalse(self.logger.error.called)
