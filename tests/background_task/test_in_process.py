"""The runner that runs tasks in the calling process."""

import contextlib
import os
from datetime import timedelta

from django.db import connection, models
from django.db.utils import OperationalError
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from background_task import current_task, signals
from background_task.exceptions import InvalidTaskError
from background_task.models import CompletedTask, Task
from background_task.tasks import Tasks, bg_runner
from background_task.tasks import tasks as global_tasks
from tests.app import tasks as app_tasks

from .tools import heard, make_task, model_pointing_at_tasks, receiver

TASKS = "background_task.tasks"
MODELS = "background_task.models"


class InProcessTestCase(TestCase):
    def setUp(self):
        self.tasks = tasks = Tasks()
        self.ran = ran = []

        @tasks.background(name="job")
        def job(*args, **kwargs):
            ran.append((args, kwargs))

        @tasks.background(name="failing")
        def failing(error="a bad day"):
            raise error if isinstance(error, BaseException) else ValueError(error)

        self.job, self.failing = job, failing


class PolicyTests(InProcessTestCase):
    def test_what_is_not_to_be_tried_again_is_not(self):
        @self.tasks.background(name="picky", dont_retry_on=LookupError)
        def picky():
            raise KeyError("gone")

        picky()
        self.tasks.run_next_task()

        failed = CompletedTask.objects.get()
        self.assertIsNotNone(failed.failed_at)
        self.assertEqual(failed.attempts, 1)

    def test_the_decorators_attempts_and_waits_hold(self):
        @self.tasks.background(name="twice", max_attempts=2, backoff=3600)
        def twice():
            raise ValueError

        task = twice()
        self.tasks.run_next_task()
        waits = Task.objects.get().run_at - timezone.now()
        Task.objects.update(run_at=timezone.now())
        self.tasks.run_next_task()

        self.assertGreater(waits, timedelta(minutes=55))
        self.assertEqual(CompletedTask.objects.get().task_id, task.pk)

    def test_a_task_knows_which_it_is(self):
        seen = []

        @self.tasks.background(name="curious")
        def curious():
            seen.append(
                (current_task.id, current_task.attempt, bool(current_task.claim))
            )
            current_task.progress(1)

        task = curious()
        self.tasks.run_next_task()
        curious.now()

        self.assertEqual(seen, [(task.pk, 1, True), (None, None, False)])


class RunNextTaskTests(InProcessTestCase):
    def test_the_function_runs_here_with_its_arguments(self):
        self.job(1, two=[2])

        self.assertTrue(self.tasks.run_next_task())

        self.assertEqual(self.ran, [((1,), {"two": [2]})])
        self.assertEqual(CompletedTask.objects.get().locked_by, str(os.getpid()))

    def test_there_is_nothing_to_run(self):
        self.job(schedule=60)

        self.assertFalse(self.tasks.run_next_task())

    def test_unknown_tasks_are_left_alone(self):
        make_task("unknown")

        self.assertFalse(self.tasks.run_next_task())

        self.assertIsNone(Task.objects.get().locked_by)

    def test_a_queue_narrows(self):
        self.job(1)
        self.job(2, queue="q")

        self.assertTrue(self.tasks.run_next_task(queue="q"))
        self.assertFalse(self.tasks.run_next_task("q"))

        self.assertEqual(self.ran, [((2,), {})])

    def test_a_failure_is_tried_again(self):
        self.failing()

        with self.assertLogs("background_task") as logs:
            self.assertTrue(self.tasks.run_next_task())

        task = Task.objects.get()
        self.assertEqual((task.attempts, task.locked_by), (1, None))
        self.assertIn("Traceback", task.last_error)
        self.assertIn("ValueError: a bad day", task.last_error)
        self.assertEqual(
            [(r.name, r.levelname, r.getMessage()) for r in logs.records],
            [
                (TASKS, "INFO", f"Running task {task.pk} (failing)"),
                (TASKS, "ERROR", f"Rescheduling task {task.pk} (failing)"),
                (
                    MODELS,
                    "WARNING",
                    f"Rescheduling task {task.pk} (failing) for 0:00:06 later at "
                    f"{task.run_at}",
                ),
            ],
        )
        self.assertIs(logs.records[1].exc_info[0], ValueError)

    def test_a_success_is_logged_without_a_warning(self):
        pk = self.job(verbose_name="A job").pk

        with self.assertLogs("background_task") as logs:
            self.tasks.run_next_task()

        self.assertEqual(
            [(r.name, r.levelname, r.getMessage()) for r in logs.records],
            [
                (TASKS, "INFO", f"Running task {pk} (A job)"),
                (TASKS, "INFO", f"Ran task and deleting task {pk} (A job)"),
            ],
        )

    def test_an_invalid_task_is_not_tried_again(self):
        @self.tasks.background(name="invalid")
        def invalid():
            raise InvalidTaskError("never", errors={"why": "because"})

        pk = invalid().pk
        with self.assertLogs("background_task", "WARNING") as logs:
            self.tasks.run_next_task()

        self.assert_failed_for_good(logs, f"task {pk} (invalid)")
        self.assertIsNotNone(CompletedTask.objects.get().failed_at)
        self.assertEqual(Task.objects.count(), 0)

    @override_settings(MAX_ATTEMPTS=1)
    def test_the_attempts_end(self):
        pk = self.failing().pk

        with self.assertLogs("background_task", "WARNING") as logs:
            self.tasks.run_next_task()

        self.assert_failed_for_good(logs, f"task {pk} (failing)")
        self.assertEqual(CompletedTask.objects.failed().get().attempts, 1)
        self.assertEqual(Task.objects.count(), 0)

    def assert_failed_for_good(self, logs, task):
        self.assertEqual(
            [(r.name, r.levelname, r.getMessage()) for r in logs.records],
            [
                (TASKS, "ERROR", f"Failed for good: {task}"),
                (MODELS, "WARNING", f"Marking {task} as failed"),
            ],
        )
        self.assertIsNotNone(logs.records[0].exc_info)

    def test_exiting_is_a_failure(self):
        @self.tasks.background(name="exiting")
        def exiting():
            raise SystemExit(3)

        exiting()
        with self.assertLogs("background_task"):
            self.tasks.run_next_task()

        self.assertIn("SystemExit: 3", Task.objects.get().last_error)

    def test_an_interrupt_is_nobodys_failure(self):
        @self.tasks.background(name="interrupted")
        def interrupted():
            raise KeyboardInterrupt

        interrupted()
        with self.assertRaises(KeyboardInterrupt):
            self.tasks.run_next_task()

        task = Task.objects.get()
        self.assertEqual((task.locked_by, task.attempts), (None, 0))

    def test_an_error_with_characters_that_no_database_takes(self):
        self.failing("zero \x00, half a pair \ud800")

        with self.assertLogs("background_task"):
            self.tasks.run_next_task()

        self.assertIn(r"zero \x00, half a pair \ud800", Task.objects.get().last_error)

    def test_arguments_may_hold_any_character(self):
        self.job("zero \x00, half a pair \ud800")

        self.tasks.run_next_task()

        self.assertEqual(self.ran, [(("zero \x00, half a pair \ud800",), {})])

    def test_async_functions_run(self):
        @self.tasks.background(name="async")
        async def job_of_tomorrow(number):
            self.ran.append(number)

        job_of_tomorrow(1)
        self.tasks.run_next_task()

        self.assertEqual(self.ran, [1])

    @override_settings(BACKGROUND_TASK_RUN_ASYNC=True)
    def test_the_old_async_setting_runs_them_inline(self):
        self.job(1)

        self.assertTrue(self.tasks.run_next_task())

        self.assertEqual(self.ran, [((1,), {})])

    def test_a_task_deleted_while_it_runs_stays_deleted(self):
        for fails in (False, True):
            with self.subTest(fails=fails):

                @self.tasks.background(name=f"vanishing {fails}")
                def vanishing(fails=fails):
                    Task.objects.all().delete()
                    if fails:
                        raise ValueError

                vanishing()
                with self.assertLogs("background_task", "WARNING") as logs:
                    self.tasks.run_next_task()

                self.assertIn("changed hands", logs.output[-1])
                self.assertEqual(Task.objects.count(), 0)
                self.assertEqual(CompletedTask.objects.count(), 0)

    def test_repetitions_follow(self):
        task = self.job(1, repeat=Task.HOURLY)

        self.tasks.run_next_task()

        repetition = Task.objects.get()
        self.assertEqual(repetition.run_at, task.run_at + timedelta(hours=1))

    def test_the_global_registry_runs_the_apps_tasks(self):
        app_tasks.note("hello")
        self.addCleanup(app_tasks.ran.clear)

        self.assertTrue(global_tasks.run_next_task())

        self.assertEqual(app_tasks.ran, [(("hello",), {})])


class ClosureTests(InProcessTestCase):
    """Functions run in the calling process: a test's own lists see it."""

    def test_a_class_of_errors_keeps_its_meaning(self):
        class NotToday(InvalidTaskError):
            pass

        @self.tasks.background(name="invalid")
        def invalid():
            raise NotToday("never")

        invalid()
        with heard() as calls, self.assertLogs("background_task"):
            self.tasks.run_next_task()

        self.assertEqual(calls[1][:2], ("task_error", NotToday))
        self.assertEqual(calls[2][0], "task_failed")
        self.assertIn("NotToday: never", CompletedTask.objects.get().last_error)

    @override_settings(USE_TZ=False)
    def test_without_time_zones(self):
        self.job(1, repeat=60)
        self.failing()

        with self.assertLogs("background_task"):
            while self.tasks.run_next_task():
                pass

        self.assertEqual(self.ran, [((1,), {})])
        self.assertEqual(CompletedTask.objects.succeeded(timedelta(hours=1)).count(), 1)
        self.assertEqual(Task.objects.count(), 2)

    def test_a_queue_of_its_own_can_be_run(self):
        ran = []
        job = self.tasks.background(name="queued", queue="q")(ran.append)
        job(1)
        job(1, queue="other")

        self.tasks.run_task("queued", [1])

        self.assertEqual(Task.objects.get().queue, "other")


class SignalTests(InProcessTestCase):
    def names(self, calls):
        return [name for name, _, _ in calls]

    def test_a_success(self):
        task = self.job(repeat=60)

        with heard() as calls:
            self.tasks.run_next_task()

        self.assertEqual(
            calls,
            [
                ("task_started", Task, {}),
                (
                    "task_successful",
                    Task,
                    {"task_id": task.pk, "completed_task": CompletedTask.objects.get()},
                ),
                ("task_finished", Task, {}),
            ],
        )

    def test_a_failure_that_is_tried_again(self):
        task = self.failing()

        with heard() as calls, self.assertLogs("background_task"):
            self.tasks.run_next_task()

        self.assertEqual(
            calls,
            [
                ("task_started", Task, {}),
                ("task_error", ValueError, {"task": task}),
                ("task_rescheduled", Task, {"task": task}),
                ("task_finished", Task, {}),
            ],
        )

    @override_settings(MAX_ATTEMPTS=1)
    def test_a_final_failure(self):
        task = self.failing()

        with heard() as calls, self.assertLogs("background_task"):
            self.tasks.run_next_task()

        self.assertEqual(
            calls,
            [
                ("task_started", Task, {}),
                ("task_error", ValueError, {"task": task}),
                (
                    "task_failed",
                    Task,
                    {"task_id": task.pk, "completed_task": CompletedTask.objects.get()},
                ),
                ("task_finished", Task, {}),
            ],
        )

    def test_they_tell_what_is_recorded_already(self):
        rows = []

        def look(**kwargs):
            rows.append((Task.objects.count(), CompletedTask.objects.count()))

        self.job(repeat=60)
        with receiver(signals.task_successful, look):
            self.tasks.run_next_task()

        self.assertEqual(rows, [(1, 1)])

    def test_a_rescheduled_task_can_be_saved_by_its_receiver(self):
        def tomorrow(task, **kwargs):
            task.run_at = timezone.now() + timedelta(days=1)
            task.save()

        self.failing()
        with (
            receiver(signals.task_rescheduled, tomorrow),
            self.assertLogs("background_task"),
        ):
            self.tasks.run_next_task()

        task = Task.objects.get()
        self.assertGreater(task.run_at, timezone.now() + timedelta(hours=23))
        self.assertIsNone(task.locked_by)

    def test_a_raising_receiver_changes_no_outcome(self):
        def object_to(**kwargs):
            raise RuntimeError("no")

        for name in ("task_started", "task_successful", "task_finished"):
            with self.subTest(name):
                self.job()
                with (
                    receiver(getattr(signals, name), object_to),
                    self.assertLogs("background_task.signals", "ERROR"),
                    self.assertLogs("django.dispatch", "ERROR"),
                ):
                    self.tasks.run_next_task()

                self.assertEqual(Task.objects.count(), 0)
                CompletedTask.objects.succeeded().get().delete()


class RunTaskTests(InProcessTestCase):
    def test_a_name_without_a_row_just_calls_the_function(self):
        with heard() as calls:
            self.tasks.run_task("job", [1], {"task": 2})

        self.assertEqual(self.ran, [((1,), {"task": 2})])
        self.assertEqual(
            [name for name, _, _ in calls], ["task_started", "task_finished"]
        )
        self.assertEqual(CompletedTask.objects.count(), 0)

    def test_arguments_may_be_left_out(self):
        self.tasks.run_task("job")

        self.assertEqual(self.ran, [((), {})])

    def test_a_failing_call_is_logged(self):
        with self.assertLogs(TASKS, "ERROR") as logs:
            self.tasks.run_task("failing")

        self.assertIn("ValueError: a bad day", logs.output[0])

    def test_a_name_with_a_due_row_runs_and_records_it(self):
        self.job(1)

        self.tasks.run_task("job", [1])

        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(CompletedTask.objects.count(), 1)

    def test_rows_that_are_not_due_or_held_are_left_alone(self):
        self.job(1, schedule=60)
        self.job(1).lock("another")

        self.tasks.run_task("job", [1])

        self.assertEqual(self.ran, [((1,), {})])
        self.assertEqual(Task.objects.count(), 2)

    def test_a_task_is_claimed_run_and_recorded(self):
        task = self.job(1, schedule=60)

        self.tasks.run_task(task)

        self.assertEqual(self.ran, [((1,), {})])
        self.assertEqual(CompletedTask.objects.get().locked_by, str(os.getpid()))

    def test_a_task_that_another_holds_is_not_run(self):
        task = self.job(1)
        task.lock("another")

        with self.assertLogs(TASKS, "WARNING") as logs:
            self.tasks.run_task(task)

        self.assertIn(f"Not running task {task.pk} (job)", logs.output[0])
        self.assertEqual(self.ran, [])

    def test_an_unknown_name_is_a_key_error(self):
        with self.assertRaises(KeyError):
            self.tasks.run_task("unknown")

    def test_upstreams_function(self):
        bg_runner(self.job, None, 1, two=2)
        bg_runner(self.job, self.job(3))

        self.assertEqual(self.ran, [((1,), {"two": 2}), ((3,), {})])
        self.assertEqual(CompletedTask.objects.count(), 1)


class GetTaskToRunTests(InProcessTestCase):
    def test_it_is_locked_by_this_process(self):
        self.job()
        runner = self.tasks._runner

        task = runner.get_task_to_run(self.tasks)

        self.assertEqual(task.locked_by, runner.worker_name)
        self.assertEqual(runner.worker_name, str(os.getpid()))
        self.assertIsNone(runner.get_task_to_run(self.tasks))

    def test_it_reads_a_few_rows_however_many_wait(self):
        for number in range(20):
            self.job(number)

        with self.assertNumQueries(3):  # five candidates, lock, fetch
            self.tasks._runner.get_task_to_run(self.tasks)

    def test_an_unreachable_database_is_a_warning(self):
        self.job()

        def refuse(execute, sql, params, many, context):
            raise OperationalError("server gone")

        with (
            self.assertLogs(TASKS, "WARNING") as logs,
            connection.execute_wrapper(refuse),
        ):
            self.assertFalse(self.tasks.run_next_task())

        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ["Failed to retrieve tasks. Database unreachable."],
        )

    def test_rows_lost_to_others_are_passed_over(self):
        tasks = [self.job(number) for number in range(7)]

        def take_first_six(execute, sql, params, many, context):
            # Another runner takes what has been read, just before it is locked here.
            if sql.startswith("UPDATE") and not taken:
                taken.append(True)
                for task in tasks[:6]:
                    task.lock("another")
            return execute(sql, params, many, context)

        taken = []
        with connection.execute_wrapper(take_first_six):
            task = self.tasks._runner.get_task_to_run(self.tasks)

        self.assertEqual(task, tasks[6])


class PointedAtTests(TransactionTestCase):
    """A model whose foreign key keeps the row of a task from being deleted."""

    def run_pointed_at(self, function, on_delete=models.PROTECT, **options):
        tasks = Tasks()
        tasks.background(name="job")(function)
        with model_pointing_at_tasks(on_delete, **options) as Loan:
            Loan.objects.create(task=tasks.get("job")(repeat=60))
            with self.assertLogs(TASKS) as logs:
                self.assertTrue(tasks.run_next_task())
                self.assertFalse(tasks.run_next_task())
            return logs.output

    def test_a_success_that_is_refused_is_marked_as_failed_and_not_run_again(self):
        for on_delete, error in (
            (models.PROTECT, "ProtectedError"),
            (models.RESTRICT, "RestrictedError"),
            (models.DO_NOTHING, "IntegrityError"),
        ):
            with self.subTest(on_delete):
                output = self.run_pointed_at(lambda: None, on_delete)

                task = Task.objects.failed().get()
                self.assertIn(
                    f"Abandoning task {task.pk} (job): its end is refused", output[-1]
                )
                self.assertEqual((task.attempts, task.locked_by), (1, None))
                self.assertIn(error, task.last_error)
                self.assertEqual(CompletedTask.objects.count(), 0)
                task.delete()

    @override_settings(MAX_ATTEMPTS=1)
    def test_a_final_failure_that_is_refused_too(self):
        with self.assertLogs(MODELS):
            self.run_pointed_at(lambda: 1 / 0)

        last_error = Task.objects.failed().get().last_error
        self.assertIn("ProtectedError", last_error)

    def test_what_lets_the_task_go_is_completed(self):
        for on_delete, options in (
            (models.CASCADE, {}),
            (models.SET_NULL, {"null": True}),
        ):
            with self.subTest(on_delete):
                self.run_pointed_at(lambda: None, on_delete, **options)

                CompletedTask.objects.succeeded().get().delete()
                Task.objects.get().delete()  # its repetition

    def test_an_outage_is_no_refusal(self):
        def refuse(execute, sql, params, many, context):
            if "INSERT" in sql:
                raise OperationalError("server gone")
            return execute(sql, params, many, context)

        tasks = Tasks()
        tasks.background(name="job")(lambda: None)()

        with (
            connection.execute_wrapper(refuse),
            self.assertRaisesMessage(OperationalError, "server gone"),
        ):
            tasks.run_next_task()

        task = Task.objects.get()
        self.assertEqual((task.failed_at, task.locked_by), (None, str(os.getpid())))


class BrokenConnectionTests(TransactionTestCase):
    """What a task does to its connection does not spoil the recording."""

    def run_sql(self, *statements):
        tasks = Tasks()

        @tasks.background(name="spoiling")
        def spoiling():
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

        spoiling()
        with self.assertLogs("background_task"):
            tasks.run_next_task()

    def test_an_aborted_transaction(self):
        self.run_sql("BEGIN", "SELECT 1 FROM nowhere")

        self.assertIn("nowhere", Task.objects.get().last_error)

    def test_an_open_transaction(self):
        self.run_sql("BEGIN")

        self.assertEqual(CompletedTask.objects.count(), 1)

    def test_a_connection_that_is_gone(self):
        self.run_sql(self.suicide())

        self.assertEqual(Task.objects.get().attempts, 1)

    def test_a_connection_that_went_while_nothing_was_due_is_replaced(self):
        ran = []
        tasks = Tasks()
        job = tasks.background(name="job")(ran.append)
        job(1)
        with connection.cursor() as cursor, contextlib.suppress(OperationalError):
            cursor.execute(self.suicide())
        connection.errors_occurred = False  # as if another had killed it

        with self.assertLogs(TASKS, "WARNING"):
            self.assertFalse(tasks.run_next_task())
        self.assertTrue(tasks.run_next_task())

        self.assertEqual(ran, [1])

    def test_a_session_that_is_read_only_is_an_outage_and_is_not_kept(self):
        if connection.vendor != "postgresql":
            self.skipTest("only there a session can be")
        tasks = Tasks()
        tasks.background(name="job")(lambda: None)()
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")

        with self.assertLogs(TASKS, "WARNING") as logs:
            self.assertFalse(tasks.run_next_task())

        self.assertIn("Database unreachable", logs.output[0])
        self.assertTrue(tasks.run_next_task())

    def suicide(self):
        statements = {
            "mysql": "KILL CONNECTION_ID()",
            "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
        }
        if connection.vendor not in statements:
            self.skipTest("no server that could go away")
        return statements[connection.vendor]
