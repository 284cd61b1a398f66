"""A try whose end the database refuses to have written."""

from django.db import connection

from background_task.models import CompletedTask
from tests.app import misbehaving

from .tools import LifecycleTestCase, attempted, completed, note, stop, supervised

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

    def test_it_is_lost_and_does_not_stop_the_others(self):
        poisoned = misbehaving.unwind(str(self.journal), "poisoned", 0)

        with supervised("--workers", 2) as runner:
            lost = attempted(poisoned, 1)
            completed(misbehaving.work(str(self.journal), "another"))
            status = stop(runner)
            output = runner.output

        self.assertRegex(lost.last_error, "^Lost: its .* could not be recorded$")
        self.assertNotIn("it is replaced", output)
        self.assertEqual(status, 0)
        note("the database refused the success", lost)

    def test_one_that_cannot_even_be_given_up_does_not_stop_the_others(self):
        misbehaving.unwind(str(self.journal), "poisoned", 0)

        with supervised("--workers", 2, settings={"MAX_ATTEMPTS": 1}) as runner:
            runner.says("Recording the end of")
            for number in range(3):
                completed(misbehaving.work(str(self.journal), f"another {number}"))
            runner.signal(15)
            runner.ended()
            output = runner.output

        self.assertEqual(CompletedTask.objects.count(), 3)
        self.assertNotIn("it is replaced", output)
