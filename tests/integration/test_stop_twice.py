"""A runner that is told to stop, and then told again."""

import contextlib
import signal
import subprocess

import pytest

from background_task.models import Runner
from tests.app import misbehaving

from .tools import LifecycleTestCase, note, row, supervised, wait_until


class StopTwiceTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_a_second_signal_stops_at_once(self):
        task = misbehaving.leave_behind(str(self.journal), "running", 600)

        with supervised("--drain-timeout", 3600) as runner:
            self.journal.pid_of("running")
            runner.signal(signal.SIGTERM)
            runner.says("SIGTERM: what runs has 3600 s to finish")
            runner.signal(signal.SIGTERM)
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
        self.assertEqual(Runner.objects.count(), 0)
        note("SIGTERM to the runner, twice", row(task))

    def test_not_even_a_task_that_blocks_term_delays_it(self):
        task = misbehaving.block_term(600)

        settings = {"BACKGROUND_TASK_GRACE": 3600}
        with supervised("--drain-timeout", 3600, settings=settings) as runner:
            runner.says(f"Running task {task.pk} (tests.app.misbehaving.block_term)")
            runner.signal(signal.SIGINT)
            runner.says("SIGINT: what runs has 3600 s to finish")
            runner.signal(signal.SIGINT)
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))

    def test_a_tstp_first_does_not_count(self):
        task = misbehaving.wait_for(
            str(self.journal), "running", str(self.folder / "go on")
        )

        with supervised("--drain-timeout", 3600) as runner:
            self.journal.pid_of("running")
            runner.signal(signal.SIGTSTP)
            runner.says("SIGTSTP")
            runner.signal(signal.SIGTERM)
            runner.says("SIGTERM: what runs has 3600 s to finish")
            (self.folder / "go on").touch()
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertIsNone(row(task))

    def test_no_signal_at_the_very_end_changes_the_exit_status(self):
        with supervised() as runner:
            wait_until(Runner.objects.exists, what="the runner is known")
            while runner.process.poll() is None:
                runner.signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    runner.process.wait(0.01)

            self.assertEqual(runner.process.returncode, 0)
        self.assertEqual(Runner.objects.count(), 0)
