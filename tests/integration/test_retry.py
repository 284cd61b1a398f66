"""A task that raises."""

import pytest
from django.utils import timezone

from background_task.models import CompletedTask, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    make_due,
    note,
    row,
    run_until_empty,
    supervised,
)


class RetryTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_an_exception_is_tried_again_later_and_an_invalid_task_never(self):
        raising = misbehaving.fail("bad: \0 \ud800 ☃")
        exiting = misbehaving.sys_exit(0)
        exiting_badly = misbehaving.sys_exit(3)
        invalid = misbehaving.be_invalid("never again")

        output = run_until_empty("--workers", 2)

        raised = row(raising)
        self.assertEqual((raised.attempts, raised.locked_by), (1, None))
        self.assertIsNone(raised.locked_at)
        self.assertGreater(raised.run_at, timezone.now())
        self.assertIn("ValueError: bad: \\x00 \\ud800 ☃", raised.last_error)
        self.assertIn("misbehaving.py", raised.last_error)
        self.assertNotIn("supervisor/entry.py", raised.last_error)
        self.assertIn("SystemExit: 0", row(exiting).last_error)
        self.assertIn("SystemExit: 3", row(exiting_badly).last_error)
        given_up = completed(invalid)
        self.assertEqual(given_up.attempts, 1)
        self.assertIsNotNone(given_up.failed_at)
        self.assertIn("InvalidTaskError: never again", given_up.last_error)
        self.assertIn(f"ERROR Rescheduling task {raising.pk} ({raising})\n", output)
        self.assertIn(f"ERROR Failed for good: task {invalid.pk} ({invalid})\n", output)
        self.assertNotIn(f"Rescheduling task {invalid.pk}", output)
        note("raise ValueError", raised)
        note("sys.exit(0)", row(exiting))
        note("sys.exit(3)", row(exiting_badly))
        note("raise InvalidTaskError", given_up)

    @pytest.mark.lifecycle
    def test_a_crash_loop_ends_at_max_attempts(self):
        task = misbehaving.os_exit(7)

        with supervised(settings={"MAX_ATTEMPTS": 3}):
            for attempts in (1, 2):
                self.assertEqual(attempted(task, attempts).attempts, attempts)
                make_due(task)
            given_up = completed(task)

        self.assertEqual(given_up.attempts, 3)
        self.assertIsNotNone(given_up.failed_at)
        self.assertIn("exited with code 7", given_up.last_error)
        self.assertEqual(Task.objects.count(), 0)
        note("os._exit(7), the last of MAX_ATTEMPTS=3", given_up)

    def test_a_success_after_a_failure_forgets_the_error(self):
        task = misbehaving.work(str(self.journal), "second time lucky")
        Task.objects.update(attempts=1, last_error="an older story")

        run_until_empty()

        self.assertEqual(
            (completed(task).attempts, completed(task).last_error), (2, "")
        )

    def test_a_repeating_task_that_fails_for_good_does_not_repeat(self):
        misbehaving.be_invalid("broken", repeat=Task.DAILY)

        run_until_empty()

        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(CompletedTask.objects.failed().count(), 1)
