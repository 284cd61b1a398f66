"""A try whose end the database refuses to have written."""

from django.db import connection
from django.utils import timezone

from background_task.models import CompletedTask, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    completed,
    note,
    put,
    row,
    run_until_empty,
    stop,
    supervised,
    wait_until,
)

TRIGGER = """
    CREATE TRIGGER refuse BEFORE INSERT ON background_task_completedtask
    WHEN NEW.task_name LIKE '%unwind' BEGIN SELECT RAISE(ABORT, 'refused'); END
"""


class RefusedTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.execute(TRIGGER)
        self.addCleanup(self.execute, "DROP TRIGGER refuse")

    def execute(self, statement):
        with connection.cursor() as cursor:
            cursor.execute(statement)

    def test_a_success_is_not_run_again_for_it_and_does_not_stop_the_others(self):
        poisoned = misbehaving.unwind(str(self.journal), "poisoned", 0)

        with supervised("--workers", 2) as runner:
            wait_until(lambda: row(poisoned).failed_at)
            completed(misbehaving.work(str(self.journal), "another"))
            status = stop(runner)
            output = runner.output

        kept = row(poisoned)
        self.assertRegex(
            kept.last_error, "^It succeeded, but that could not be recorded: .*refused"
        )
        self.assertEqual((kept.attempts, kept.locked_by), (1, None))
        self.assertEqual(self.journal.begun().count("poisoned"), 1)
        self.assertNotIn("it is replaced", output)
        self.assertEqual(status, 0)
        note("the database refused the success", kept)

    def test_a_failure_is_tried_again_and_abandoned_when_it_is_to_be_given_up(self):
        failing = put("unwind", "no such journal/", "poisoned", 0)

        with supervised("--workers", 2, settings={"MAX_ATTEMPTS": 1}) as runner:
            wait_until(lambda: row(failing).failed_at)
            completed(misbehaving.work(str(self.journal), "another"))
            self.assertEqual(stop(runner), 0)
            output = runner.output

        self.assertRegex(
            row(failing).last_error, "^Lost: its end could not be recorded: .*refused"
        )
        self.assertEqual(CompletedTask.objects.count(), 1)
        self.assertNotIn("it is replaced", output)

    def test_a_dead_runners_row_that_is_refused_stops_no_other(self):
        held = put("unwind", "x", "y", 0, attempts=24)
        Task.objects.update(locked_by="a ghost", locked_at=timezone.now())
        healthy = misbehaving.work(str(self.journal), "another")

        output = run_until_empty()

        self.assertIsNone(completed(healthy).failed_at)
        self.assertRegex(
            row(held).last_error, "^Lost: its runner is unknown; .*refused"
        )
        self.assertIsNone(row(held).locked_by)
        self.assertNotIn("it is replaced", output)
