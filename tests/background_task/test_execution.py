"""What a task's process does, as far as it can be seen from within one process."""

from types import SimpleNamespace

from django.db import connection
from django.test import TestCase, TransactionTestCase

from background_task import exceptions, execution, signals
from background_task.outages import UNREADABLE
from background_task.tasks import tasks
from tests.app import misbehaving
from tests.app import tasks as app_tasks

from .tools import heard, make_task, make_unreadable, receiver


def context():
    return SimpleNamespace(
        claim="1@now",
        deadline=None,
        stop_with=None,
        more=False,
        permanent=False,
        session=lambda session: None,
        progress=lambda done, total=None, message="": None,
    )


def arguments(name, params="[[], {}]", id=0):
    said = {"id": id, "name": name, "params": params, "title": "a title"}
    return {**said, "attempt": 1, "queue": "mail", "runner": "a runner"}


class EnvironmentTests(TestCase):
    def test_it_names_the_database_that_is_worked_on(self):
        named = execution.environment()["databases"]["default"]

        self.assertEqual(named["NAME"], str(connection.settings_dict["NAME"]))
        self.assertEqual(
            set(named), {"NAME", "HOST", "PORT", "USER", "PASSWORD"} & set(named)
        )
        self.assertNotIn("OPTIONS", named)


class DiscoveryTests(TestCase):
    def test_names_come_with_their_decorators_limits(self):
        self.assertIsNotNone(app_tasks.limited)

        names = execution.discover()["names"]

        self.assertEqual(
            names["tests.app.tasks.limited"],
            {"max_run_time": 90, "memory_limit": "512M", "queue": "slow"},
        )
        self.assertEqual(names["tests.app.misbehaving.work"], {"queue": None})
        self.assertEqual(
            names["tests.app.misbehaving.fail_twice"],
            {"max_attempts": 2, "backoff": [0.0, 3600.0], "queue": None},
        )

    def test_it_is_said_if_anybody_is_to_be_told(self):
        def listen(**named):
            pass

        before = execution.discover()["listens"]
        with receiver(signals.task_started, listen):
            started = execution.discover()["listens"]
        with receiver(signals.task_failed, listen):
            failed = execution.discover()["listens"]

        # Of `task_started` nobody has to be told afterwards.
        self.assertEqual((before, started, failed), (False, False, True))


class ExecuteTests(TransactionTestCase):
    """`execute` closes the connections: it is the last thing a process does."""

    def setUp(self):
        app_tasks.ran.clear()
        self.addCleanup(app_tasks.ran.clear)

    def test_the_function_is_called_with_the_rows_arguments(self):
        params = '[[1, "\\u00fc"], {"deep": {"er": null}}]'

        with heard() as calls:
            execution.execute(arguments("tests.app.tasks.note", params), context())

        self.assertEqual(app_tasks.ran, [((1, "ü"), {"deep": {"er": None}})])
        self.assertEqual([name for name, *_ in calls], ["task_started"])

    def test_what_it_raises_is_raised_and_announced(self):
        task = make_task("tests.app.tasks.fail", ("oh",))

        with heard() as calls, self.assertRaisesMessage(ValueError, "oh"):
            execution.execute(
                arguments(task.task_name, task.task_params, task.pk), context()
            )

        self.assertEqual([name for name, *_ in calls], ["task_started", "task_error"])
        _, sender, named = calls[-1]
        self.assertIs(sender, ValueError)
        self.assertEqual(named["task"], task)

    def test_a_row_that_cannot_be_read_hides_nothing_of_what_it_raises(self):
        fail = arguments("tests.app.tasks.fail", '[["oh"], {}]', "no key")

        with (
            heard() as calls,
            self.assertLogs("background_task.tasks", "ERROR") as logs,
            self.assertRaisesMessage(ValueError, "oh"),
        ):
            execution.execute(fail, context())

        self.assertEqual(calls[-1], ("task_error", ValueError, {"task": None}))
        self.assertIn("could not be read for task_error", logs.output[0])

    def test_exiting_is_announced_as_an_error_too(self):
        self.assertIsNotNone(misbehaving.sys_exit)

        with heard() as calls, self.assertRaises(SystemExit):
            execution.execute(
                arguments("tests.app.misbehaving.sys_exit", "[[3], {}]"), context()
            )

        self.assertEqual(calls[-1][:2], ("task_error", SystemExit))

    def test_a_name_that_is_not_registered(self):
        self.assertIsNone(tasks.get("not.here"))

        with self.assertRaisesMessage(exceptions.BackgroundTaskError, "'not.here'"):
            execution.execute(arguments("not.here"), context())

    def test_arguments_that_are_not_what_they_should_be(self):
        for params in ("{not json", "[]", "[1, 2]", "null", '[["a"]]', '[[], ["x"]]'):
            with (
                self.subTest(params),
                self.assertRaisesMessage(exceptions.BackgroundTaskError, "not JSON"),
            ):
                execution.execute(arguments("tests.app.tasks.note", params), context())

        self.assertEqual(app_tasks.ran, [])

    def test_each_reason_to_stop_has_its_exception(self):
        asked = context()
        execution.execute(arguments("tests.app.tasks.note"), asked)

        kinds = {
            "time": exceptions.TaskTimeout,
            "memory": exceptions.TaskOutOfMemory,
            "release": exceptions.TaskReleased,
            "signal": exceptions.Stopped,
        }
        for reason, kind in kinds.items():
            with self.subTest(reason):
                raised = asked.stop_with(reason, "a text")
                self.assertIs(type(raised), kind)
                self.assertEqual(str(raised), "a text")

    def test_no_connection_outlives_it(self):
        make_task()

        execution.execute(arguments("tests.app.tasks.note"), context())

        self.assertIsNone(connection.connection)


class AnnounceTests(TransactionTestCase):
    def test_a_row_that_cannot_be_read_keeps_nobody_else_from_being_told(self):
        good, bad = make_task(), make_task()
        make_unreadable(bad)
        first, second = (
            {"task": task.pk, "completed": None, "error": None} for task in (good, bad)
        )

        with self.assertRaises(UNREADABLE):  # they are told of one by one, then
            execution.announce([first, second], context())
        with (
            heard() as calls,
            self.assertLogs("background_task.tasks", "WARNING") as logs,
        ):
            execution.announce([second], context())
            execution.announce([first], context())

        told = [named["task"].pk for name, _, named in calls if "task" in named]
        self.assertEqual(told, [good.pk])
        self.assertIn(f"The row of task {bad.pk} can't be read", logs.output[0])
