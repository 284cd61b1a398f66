"""What the rows say of each try: evidence, history, progress, policies."""

import contextlib
import threading
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone

from background_task.models import Attempt, CompletedTask, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    make_due,
    row,
    run_until_empty,
    supervised,
    wait_until,
)


class EvidenceTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_every_try_leaves_a_row_with_what_is_known_of_it(self):
        talking = misbehaving.talk()
        late = misbehaving.be_late()
        stuck = misbehaving.get_stuck()
        crashing = misbehaving.segfault()

        run_until_empty("--workers", 2)

        (spoke,) = completed(talking).history
        self.assertEqual((spoke.task_id, spoke.number), (talking.pk, 1))
        self.assertEqual(spoke.outcome, Attempt.Outcome.SUCCEEDED)
        self.assertIn("err, another line", spoke.output)
        self.assertIn("no end of line", spoke.output)
        self.assertEqual(spoke.exit_code, 0)
        self.assertGreater(spoke.cpu_seconds, 0)
        self.assertGreaterEqual(spoke.waited, 0)
        self.assertGreaterEqual(spoke.duration, 0)
        self.assertTrue(spoke.host)
        self.assertLess(timezone.now() - spoke.ended_at, timedelta(minutes=5))
        gone = completed(late)
        self.assertIsNotNone(gone.failed_at)
        self.assertEqual(gone.attempts, 1)
        (overran,) = gone.history
        self.assertEqual(overran.outcome, Attempt.Outcome.TIMED_OUT)
        self.assertIn("in be_late_in_here", overran.stack)
        self.assertIn("on my way\n", overran.output)
        self.assertEqual(overran.error, gone.last_error)
        (stalled,) = row(stuck).history
        self.assertEqual(
            stalled.error,
            "Stopped: no progress for 0.5 s (stall_timeout of @background)",
        )
        (crashed,) = row(crashing).history
        self.assertEqual(crashed.outcome, Attempt.Outcome.CRASHED)
        self.assertIn("Segmentation fault", crashed.stack)
        self.assertIn("in segfault", crashed.stack)

    @pytest.mark.lifecycle
    def test_failed_tries_are_kept_and_policies_hold(self):
        twice = misbehaving.fail_twice("no")
        key = misbehaving.fail_for_good("KeyError")
        value = misbehaving.fail_for_good("ValueError")

        run_until_empty("--workers", 2)

        given_up = completed(twice)
        self.assertEqual(given_up.attempts, 2)
        self.assertEqual([a.number for a in given_up.history], [1, 2])
        self.assertTrue(all("ValueError: no" in a.error for a in given_up.history))
        self.assertIsNotNone(completed(key).failed_at)
        self.assertEqual(row(value).attempts, 1)

    def test_overrides_stand_over_the_decorator(self):
        name = "tests.app.misbehaving.fail_twice"
        task = misbehaving.fail_twice("no")

        overrides = {name: {"max_attempts": 3, "backoff": 3600}}
        run_until_empty(settings={"BACKGROUND_TASK_OVERRIDES": overrides})

        self.assertEqual(row(task).attempts, 1)
        wait = row(task).run_at - timezone.now()
        self.assertLess(abs(wait - timedelta(hours=1)), timedelta(minutes=5))

    def test_a_task_that_dies_again_and_again_is_parked(self):
        task = misbehaving.os_exit(7)
        raising = misbehaving.fail("no")

        with supervised(settings={"BACKGROUND_TASK_MAX_CRASHES": 2}):
            attempted(task, 1)
            make_due(task)
            parked = completed(task)
            attempted(raising, 1)

        self.assertEqual(parked.attempts, 2)
        self.assertIsNotNone(parked.failed_at)
        self.assertIn("exited with code 7", parked.last_error)
        self.assertIn(
            "Parked: its process has died 2 times of itself "
            "(BACKGROUND_TASK_MAX_CRASHES is 2)",
            parked.last_error,
        )
        self.assertEqual(row(raising).attempts, 1)

    def test_what_was_parked_twice_counts_crashes_only(self):
        task = misbehaving.os_exit(7)
        Attempt.objects.create(
            task_id=task.pk,
            task_name=task.task_name,
            number=0,
            outcome=Attempt.Outcome.FAILED,
            started_at=timezone.now(),
            ended_at=timezone.now(),
            exit_code=1,
        )

        run_until_empty(settings={"BACKGROUND_TASK_MAX_CRASHES": 2})

        self.assertEqual(row(task).attempts, 1)

    def test_a_task_with_a_single_try_is_not_tried_again_when_its_runner_died(self):
        task = misbehaving.wait_once(str(self.journal), "once", str(self.folder / "no"))
        with supervised() as runner:
            self.journal.pid_of("once")
            runner.kill()
            wait_until(runner.is_gone)

        run_until_empty()

        self.assertRegex(completed(task).last_error, "^Lost: its runner died")
        self.assertEqual(self.journal.begun(), ["once"])


class TimeTests(LifecycleTestCase):
    def test_a_call_has_a_limit_of_its_own(self):
        task = misbehaving.work(str(self.journal), "called", 600, max_run_time=0.5)

        run_until_empty()

        self.assertEqual(
            row(task).last_error, "Stopped after 0.5 s (max_run_time of the call)"
        )

    def test_the_command_lines_limit_is_the_ceiling(self):
        longer = misbehaving.work(str(self.journal), "longer", 600, max_run_time=900)
        unlimited = misbehaving.work(str(self.journal), "unlimited", 600)

        output = run_until_empty("--max-run-time", 0.5, "--workers", 2)

        self.assertIn("MAX_RUN_TIME 0.5 s", output)
        for task in (longer, unlimited):
            self.assertEqual(
                row(task).last_error, "Stopped after 0.5 s (--max-run-time)"
            )


class ProgressTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_it_reaches_the_row_while_a_transaction_is_open(self):
        gate = self.folder / "gate"
        task = misbehaving.tell_progress(str(self.journal), str(gate))

        with supervised(settings={"BACKGROUND_TASK_TASKS_PER_PROCESS": 1}) as runner:
            if connection.vendor == "sqlite":  # which has one lock for all
                gate.touch()
            else:
                wait_until(lambda: row(task).progress_done == 7)
                self.assertEqual(row(task).progress_total, 10)
                self.assertEqual(row(task).progress_message, "seven  of ten")
                self.assertEqual(User.objects.count(), 0)
                gate.touch()
            wait_until(lambda: CompletedTask.objects.count() == 1)
            self.assertEqual(self.journal.begun(), [f"<try 1 of task {task.pk}>"])
            self.assertNotIn("Traceback", runner.output)

    @pytest.mark.lifecycle
    def test_a_row_that_another_has_locked_holds_up_nobody(self):
        if connection.vendor == "sqlite":
            self.skipTest("one lock for the whole database")
        gate = self.folder / "gate"
        task = misbehaving.tell_progress(str(self.journal), str(gate))
        with supervised("--workers", 2) as runner:
            wait_until(lambda: row(task).progress_done == 7)
            with self.locked(task):
                for number in range(4):
                    misbehaving.work(str(self.journal), number)
                wait_until(lambda: CompletedTask.objects.count() == 4)
            gate.touch()
            wait_until(lambda: CompletedTask.objects.count() == 5)
            self.assertNotIn("unavailable", runner.output)

    @contextlib.contextmanager
    def locked(self, task):
        """Have another session lock a task's row meanwhile."""
        locked, done = threading.Event(), threading.Event()

        def hold():
            try:
                with transaction.atomic():
                    Task.objects.select_for_update().get(pk=task.pk)
                    locked.set()
                    done.wait(60)
            finally:
                connections.close_all()

        thread = threading.Thread(target=hold)
        thread.start()
        try:
            self.assertTrue(locked.wait(30))
            yield
        finally:
            done.set()
            thread.join()


@pytest.mark.lifecycle
class SessionTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        if connection.vendor == "sqlite":
            self.skipTest("SQLite has no sessions")

    def test_a_kill_frees_the_row_that_the_task_had_locked(self):
        user = User.objects.create(username="locked")
        for method in ("template", "spawn"):
            self.journal.clear()
            Attempt.objects.all().delete()
            misbehaving.lock_a_row(str(self.journal), user.pk)

            with supervised("--start-method", method) as runner:
                self.journal.pid_of("holds")
                wait_until(lambda: Attempt.objects.count() == 1)
                wait_until(lambda: self.can_lock(user))
                self.assertNotIn("could not be ended", runner.output)

            outcome = Attempt.objects.get().outcome
            self.assertEqual(outcome, Attempt.Outcome.TIMED_OUT)

    def can_lock(self, user):
        """Is the row free, as another session sees it?"""
        found = []

        def look():
            try:
                with transaction.atomic():
                    User.objects.select_for_update(nowait=True).get(pk=user.pk)
                found.append(True)
            except OperationalError:
                found.append(False)
            finally:
                connections.close_all()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found[0]
