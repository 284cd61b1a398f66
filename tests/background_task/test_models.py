import os
import subprocess
import sys
from datetime import timedelta

from django.db import DatabaseError, transaction
from django.test import TestCase, override_settings
from django.utils import timezone

from background_task.models import CompletedTask, Task, _is_running

from .tools import make_claimed_task, make_runner, make_task


class TaskTests(TestCase):
    def test_it_is_called_by_its_verbose_name_or_its_name(self):
        self.assertEqual(str(Task(task_name="a.b")), "a.b")
        self.assertEqual(str(Task(task_name="a.b", verbose_name="Bee")), "Bee")

    def test_a_completed_task_is_called_by_its_time_too(self):
        now = timezone.now()
        completed = CompletedTask(task_name="a.b", run_at=now)

        self.assertEqual(str(completed), f"a.b - {now}")

    def test_arguments_come_back_as_json_has_them(self):
        task = Task.objects.new_task("a.b", ((1, 2),), {"k": {3: None}})

        self.assertEqual(task.params(), ([[1, 2]], {"k": {"3": None}}))

    def test_an_empty_lock_is_saved_as_null(self):
        task = make_task(locked_by="")

        task.refresh_from_db()
        self.assertIsNone(task.locked_by)

    def test_the_constants_are_seconds(self):
        self.assertEqual(
            [value for value, _ in Task.REPEAT_CHOICES],
            [3600, 86400, 604800, 1209600, 2419200, 0],
        )
        self.assertFalse(Task(repeat=Task.NEVER).is_repeating_task())
        self.assertTrue(Task(repeat=Task.DAILY).is_repeating_task())

    def test_an_attempt_is_counted_without_saving_the_rest(self):
        task = make_task(priority=1)
        Task.objects.update(priority=77)

        task.increment_attempts()

        self.assertEqual(task.attempts, 1)
        self.assertEqual(
            Task.objects.values_list("attempts", "priority").get(), (1, 77)
        )

    @override_settings(MAX_ATTEMPTS=2)
    def test_the_attempts_end(self):
        self.assertFalse(Task(attempts=1).has_reached_max_attempts())
        self.assertTrue(Task(attempts=2).has_reached_max_attempts())

    def test_has_error_is_a_tick_in_the_admin(self):
        self.assertTrue(Task(last_error="oops").has_error())
        self.assertFalse(Task().has_error())
        self.assertTrue(Task.has_error.boolean)
        self.assertTrue(CompletedTask.locked_by_pid_running.boolean)


class LockTests(TestCase):
    def test_locking_returns_a_fresh_instance(self):
        task = make_task()
        Task.objects.update(priority=77)

        locked = task.lock("me")

        self.assertEqual((locked.locked_by, locked.priority), ("me", 77))
        self.assertIsNone(task.locked_by)

    def test_only_one_gets_the_lock(self):
        task = make_task()

        self.assertIsNotNone(task.lock("me"))
        self.assertIsNone(task.lock("you"))
        self.assertEqual(Task.objects.get().locked_by, "me")

    def test_a_deleted_task_cannot_be_locked(self):
        task = make_task()
        Task.objects.all().delete()

        self.assertIsNone(task.lock("me"))


class SaveTests(TestCase):
    """Saving leaves the claim as it is in the row, unless it was assigned."""

    def claim(self):
        return Task.objects.values_list("locked_by", "locked_at").get()

    def test_an_instance_from_before_the_claim_does_not_undo_it(self):
        task = make_task()
        read = Task.objects.get()
        claimed = task.lock("me")

        for stale in (task, read):
            stale.priority += 77
            stale.save()

            self.assertEqual(self.claim(), (claimed.locked_by, claimed.locked_at))
            self.assertEqual(Task.objects.get().priority, 77)
            Task.objects.update(priority=0)

    def test_an_instance_from_before_the_release_does_not_undo_it(self):
        held = make_task().lock("me")
        Task.objects.update(locked_by=None, locked_at=None)
        refreshed = Task.objects.only("priority").get()
        refreshed.refresh_from_db()

        for stale in (held, refreshed):
            stale.save()

            self.assertEqual(self.claim(), (None, None))

    def test_what_was_refreshed_was_not_assigned(self):
        task = make_task()
        task.lock("me")
        task.refresh_from_db()
        Task.objects.update(locked_by=None, locked_at=None)

        task.save()

        self.assertEqual(self.claim(), (None, None))

    def test_what_was_assigned_is_saved_once(self):
        task = make_task().lock("me")
        task.locked_by = task.locked_at = None

        task.save()
        self.assertEqual(self.claim(), (None, None))

        Task.objects.get().lock("you")
        task.save()
        self.assertEqual(self.claim()[0], "you")

    def test_what_is_named_is_saved(self):
        task = make_task()
        task.lock("me")

        task.save(update_fields=["locked_by"])

        self.assertIsNone(self.claim()[0])

    def test_a_row_that_is_gone_does_not_come_back(self):
        task = make_task().lock("me")
        Task.objects.all().delete()

        with self.assertRaises(DatabaseError), transaction.atomic():
            task.save()

        self.assertEqual(Task.objects.count(), 0)

    def test_a_copy_is_another_row(self):
        task = make_task()
        task.pk = None
        task.save()

        self.assertEqual(Task.objects.count(), 2)

    def test_what_was_not_loaded_is_not_saved(self):
        make_task(priority=77)
        task = Task.objects.only("queue").get()
        task.queue = "q"

        with self.assertNumQueries(1):
            task.save()

        self.assertEqual(Task.objects.values_list("priority", "queue").get(), (77, "q"))


class LockedByPidRunningTests(TestCase):
    def test_nobody(self):
        self.assertIsNone(Task().locked_by_pid_running())

    def test_this_process(self):
        self.assertIs(Task(locked_by=str(os.getpid())).locked_by_pid_running(), True)

    def test_a_process_of_the_past(self):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()

        self.assertIs(Task(locked_by=str(process.pid)).locked_by_pid_running(), False)

    def test_what_is_no_process_of_anybody(self):
        for name in ("fake", "0", "-1", "²", "99999999999999999999", "a-runner"):
            with self.subTest(name):
                self.assertIs(Task(locked_by=name).locked_by_pid_running(), False)

    def test_a_process_of_somebody_else(self):
        if os.name != "posix" or os.getuid() != 0:
            self.skipTest("only root can be somebody else")
        nobody = 65534

        os.setresuid(nobody, nobody, 0)
        try:
            running = _is_running("1")
        finally:
            os.setresuid(0, 0, 0)

        self.assertIs(running, True)

    def test_a_runner_by_its_lease(self):
        make_runner("alive")
        make_runner("lapsed", trusted_for=-timedelta(seconds=1))

        self.assertIs(Task(locked_by="alive").locked_by_pid_running(), True)
        self.assertIs(CompletedTask(locked_by="lapsed").locked_by_pid_running(), False)


class RepetitionTests(TestCase):
    def test_a_task_that_does_not_repeat_has_none(self):
        self.assertIsNone(make_task().create_repetition())

    def test_a_chain_that_is_over_has_none(self):
        over = make_task(repeat=60, repeat_until=timezone.now())
        would_be_over = make_task(
            repeat=Task.DAILY, repeat_until=timezone.now() + timedelta(hours=1)
        )

        self.assertIsNone(over.create_repetition())
        self.assertIsNone(would_be_over.create_repetition())
        self.assertEqual(Task.objects.count(), 2)

    def test_it_is_planned_from_the_planned_moment_missed_ones_left_out(self):
        task = make_task(
            repeat=Task.HOURLY, run_at=timezone.now() - timedelta(hours=2, minutes=30)
        )

        repetition = task.create_repetition()

        self.assertEqual(repetition.run_at, task.run_at + timedelta(hours=3))
        self.assertEqual(repetition.task_hash, task.task_hash)


class CompletedTaskTests(TestCase):
    def test_it_has_the_time_of_its_end_and_the_claim(self):
        task, claim = make_claimed_task(run_at=timezone.now() - timedelta(days=1))
        before = timezone.now()

        completed = task.create_completed_task()

        self.assertGreaterEqual(completed.run_at, before)
        self.assertEqual((completed.locked_by, completed.locked_at), claim[1:])
        self.assertIsNone(completed.failed_at)
        self.assertTrue(Task.objects.filter(pk=task.pk).exists())


class RescheduleTests(TestCase):
    def fail(self, task, error):
        try:
            raise error
        except Exception as raised:
            task.reschedule(type(raised), raised, raised.__traceback__)

    def test_the_instance_tells_what_its_row_says(self):
        task, _ = make_claimed_task()

        with self.assertLogs("background_task.models", "WARNING"):
            self.fail(task, ValueError("a bad day"))

        row = Task.objects.get()
        self.assertEqual((task.attempts, row.attempts), (1, 1))
        self.assertIn("ValueError: a bad day", row.last_error)
        for name in ("last_error", "run_at", "locked_by", "locked_at", "failed_at"):
            self.assertEqual(getattr(task, name), getattr(row, name), name)

    def test_a_task_that_changed_hands_is_left_alone(self):
        task, _ = make_claimed_task()
        Task.objects.update(locked_by="another")

        with self.assertLogs("background_task.models", "WARNING") as logs:
            self.fail(task, ValueError("a bad day"))

        self.assertIn("changed hands", logs.output[0])
        self.assertEqual(Task.objects.get().attempts, 0)
