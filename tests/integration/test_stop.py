"""A runner that is told to stop."""

import contextlib
import signal

import psutil
import pytest

from background_task.models import CompletedTask, Runner, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    completed,
    note,
    row,
    stop,
    supervised,
    wait_until,
)


class StopTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.signal_file = self.folder / "go on"

    def waiting_task(self, label):
        return misbehaving.wait_for(str(self.journal), label, str(self.signal_file))

    def test_in_process_it_says_that_it_has_heard(self):
        task = self.waiting_task("in process")
        with supervised("--in-process") as runner:
            self.journal.pid_of("in process")
            runner.signal(signal.SIGINT)
            runner.says("SIGINT: the task that runs is finished first; a second")
            self.signal_file.touch()

            self.assertEqual(runner.ended(), 0)
        self.assertTrue(completed(task))

    def test_in_process_a_second_signal_gives_the_task_back(self):
        task = self.waiting_task("in process")
        with supervised("--in-process") as runner:
            self.journal.pid_of("in process")
            runner.signal(signal.SIGTERM)
            runner.says("SIGTERM: the task that runs is finished first")
            runner.signal(signal.SIGINT)

            self.assertEqual(runner.ended(), 130)
            runner.says("CommandError: Stopped in the middle of a task")
        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))

    @pytest.mark.lifecycle
    def test_term_lets_what_runs_finish_and_releases_what_does_not(self):
        finishing = self.waiting_task("finishing")
        lasting = misbehaving.unwind(str(self.journal), "lasting", 600)

        with supervised("--workers", 2, "--drain-timeout", 3) as runner:
            self.journal.pid_of("finishing")
            self.journal.pid_of("lasting")
            waiting = misbehaving.work(str(self.journal), "waiting")
            runner.signal(signal.SIGTERM)
            runner.says("SIGTERM: what runs has 3 s to finish")
            self.signal_file.touch()
            status = runner.ended()
            output = runner.output

        self.assertEqual(status, 0)
        self.assertIn(
            f"WARNING Given back, at no attempt's cost: task {lasting.pk} ({lasting}). "
            "Released: the runner was stopped",
            output,
        )
        self.assertEqual(completed(finishing).attempts, 1)
        for task in (row(lasting), row(waiting)):
            self.assertEqual((task.attempts, task.last_error), (0, ""))
            self.assertEqual((task.locked_by, task.locked_at), (None, None))
        self.assertIn("unwound", [event for event, *_ in self.journal.entries()])
        self.assertNotIn("waiting", self.journal.begun())
        self.assertEqual(Runner.objects.count(), 0)
        note("SIGTERM to the runner, over --drain-timeout", row(lasting))

    def test_tstp_waits_for_what_runs(self):
        running = self.waiting_task("running")

        with supervised("--drain-timeout", 0) as runner:
            self.journal.pid_of("running")
            waiting = misbehaving.work(str(self.journal), "waiting")
            runner.signal(signal.SIGTSTP)
            runner.says("SIGTSTP: claiming no more, waiting")
            self.signal_file.touch()
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertEqual(completed(running).attempts, 1)
        self.assertEqual((row(waiting).attempts, row(waiting).locked_by), (0, None))

    def test_duration_waits_for_what_runs(self):
        running = self.waiting_task("running")

        with supervised("--duration", 20, "--drain-timeout", 0) as runner:
            self.journal.pid_of("running")
            runner.says("--duration 20 s is over")
            self.signal_file.touch()
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertEqual(completed(running).attempts, 1)

    def test_int_and_hup_drain_as_term_does(self):
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # under nohup
        for number in (signal.SIGINT, signal.SIGHUP)[: 1 if ignored else 2]:
            with self.subTest(number.name), supervised("--drain-timeout", 0) as runner:
                label = f"until {number.name}"
                task = misbehaving.work(str(self.journal), label, 600)
                self.journal.pid_of(label)

                status = stop(runner, number)

                self.assertEqual(status, 0)
                self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
                Task.objects.all().delete()

    def test_a_released_task_may_still_finish_in_its_grace(self):
        task = misbehaving.swallow_the_stop(str(self.journal), "stubborn")

        with supervised("--drain-timeout", 0) as runner:
            self.journal.pid_of("stubborn")
            status = stop(runner)

        self.assertEqual(status, 0)
        self.assertEqual(completed(task).failed_at, None)

    def test_an_idle_runner_stops(self):
        with supervised() as runner:
            wait_until(Runner.objects.exists, what="the runner is known")
            status = stop(runner)

        self.assertEqual(status, 0)
        self.assertEqual(Runner.objects.count(), 0)

    def test_a_signal_to_every_process_of_the_unit_is_a_release_too(self):
        """As systemd's KillMode=control-group does."""
        task = misbehaving.unwind(str(self.journal), "in the unit", 600)

        with supervised("--drain-timeout", 5) as runner:
            self.journal.pid_of("in the unit")
            runner.signal(signal.SIGTERM)
            for process in runner.processes():
                with contextlib.suppress(
                    psutil.NoSuchProcess
                ):  # the first one ended it
                    process.send_signal(signal.SIGTERM)
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
        self.assertEqual(CompletedTask.objects.count(), 0)
