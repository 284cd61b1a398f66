"""A chain of repeats neither forks nor vanishes, and may go on after a failure."""

import os
import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import OperationalError, connection, connections, models
from django.db.models.signals import post_save
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from background_task import books
from background_task.models import CompletedTask, Task
from background_task.tasks import Tasks, TaskSchedule

from .tools import (
    make_claimed_task,
    make_task,
    make_unreadable,
    model_pointing_at_tasks,
    receiver,
)

BERLIN = ZoneInfo("Europe/Berlin")
GO_ON = override_settings(BACKGROUND_TASK_REPEAT_AFTER_FAILURE=True)
KEEP_TIME = override_settings(BACKGROUND_TASK_REPEAT_TIMEZONE="Europe/Berlin")


DIED = 9


def dies_at(number, write):
    """Have a process write that is gone before the statement of this number.

    The first one is 0. Return whether it came to it.
    """
    connections.close_all()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED
    left = [number]

    def execute(run, sql, params, many, context):
        if left[0] == 0:
            os._exit(DIED)
        left[0] -= 1
        return run(sql, params, many, context)

    try:
        with connection.execute_wrapper(execute):
            write()
        os._exit(0)
    finally:  # of what it raised, the parent knows by the status
        os._exit(1)


class CrashTests(TransactionTestCase):
    """Whoever writes may die before any statement, and is asked again afterwards."""

    WAYS = (
        ("a success", books.succeed),
        ("a final failure", lambda claim: books.fail(claim, "x", permanent=True)),
        ("a retry", lambda claim: books.fail(claim, "x")),
        ("an abandoned success", lambda c: books.abandon(c, "x", succeeded=True)),
        ("an abandoned failure", lambda claim: books.abandon(claim, "x")),
        ("what is given back", books.release),
    )

    @GO_ON
    def test_at_whatever_statement_it_dies_the_chain_has_one_link(self):
        for name, write in self.WAYS:
            died, number = True, -1
            while died:
                number += 1
                _, claim = make_claimed_task(repeat=Task.HOURLY)
                with self.subTest(name, statement=number):
                    died = dies_at(number, lambda c=claim, w=write: w(c))

                    self.assertEqual(self.links(), 1)
                    self.assertEqual(bool(write(claim)), died)  # it is sent again
                    self.assertEqual(self.links(), 1)
                    self.assertFalse(write(claim))
                    self.assertEqual(self.links(), 1)
                    self.assertLessEqual(CompletedTask.objects.count(), 1)
                Task.objects.all().delete()
                CompletedTask.objects.all().delete()
            self.assertGreater(number, 1, name)

    def links(self):
        """Return how many runs are to come: of the chain, and of whom holds it now."""
        return Task.objects.filter(failed_at=None, repeat=Task.HOURLY).count()


class TwoWritersTests(TransactionTestCase):
    """Two who think that they hold a try record its end at the same moment."""

    @GO_ON
    def test_one_of_them_is_fenced(self):
        for outcome in ("success", "failure", "abandoned"):
            with self.subTest(outcome):
                _, claim = make_claimed_task(repeat=Task.HOURLY)

                written = self.at_once(lambda c=claim, o=outcome: self.write(c, o))

                self.assertEqual(
                    sorted(map(bool, written)), [False, False, False, True]
                )
                links = Task.objects.filter(failed_at=None)
                self.assertEqual(links.get().repeat, Task.HOURLY)
                Task.objects.all().delete()

    def write(self, claim, outcome):
        if outcome == "success":
            return books.succeed(claim)
        if outcome == "failure":
            return books.fail(claim, "oops", permanent=True)
        return books.abandon(claim, "oops")

    def at_once(self, write, writers=4):
        barrier, written = threading.Barrier(writers), []

        def run():
            try:
                connection.ensure_connection()
                barrier.wait()
                written.append(self.patiently(write))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=run) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return written

    def patiently(self, write):
        """Try again what the database calls busy, as the bookkeeper does."""
        while True:
            try:
                return write()
            except OperationalError:
                continue


class PeopleTests(TestCase):
    """What somebody does to a task that runs, in the admin or elsewhere."""

    def test_a_task_that_is_deleted_is_the_last_of_its_chain(self):
        task, claim = make_claimed_task(repeat=Task.DAILY)
        task.delete()

        self.assertIsNone(books.succeed(claim))
        self.assertEqual(Task.objects.count(), 0)

    def test_what_is_not_to_repeat_any_more_does_not(self):
        _, claim = make_claimed_task(repeat=Task.DAILY)
        Task.objects.update(repeat=Task.NEVER)

        self.assertIsNone(books.succeed(claim).repetition)
        self.assertEqual(Task.objects.count(), 0)

    def test_what_is_run_again_by_its_failed_row_is_one_chain(self):
        for goes_on in (False, True):
            with override_settings(BACKGROUND_TASK_REPEAT_AFTER_FAILURE=goes_on):
                _, claim = make_claimed_task(repeat=Task.DAILY)
                failed = books.fail(claim, "oops", permanent=True).completed
                again, claim = make_claimed_task(repeat=failed.repeat)
                failed.delete()

                books.succeed(claim)

                following = Task.objects.get()
                self.assertEqual(following.repeat, Task.DAILY)
                self.assertNotEqual(following, again)
                following.delete()


class FailedForGoodTests(TestCase):
    def test_a_chain_ends_with_it(self):
        _, claim = make_claimed_task(repeat=Task.DAILY)

        entry = books.fail(claim, "oops", permanent=True)

        self.assertIsNone(entry.repetition)
        self.assertEqual(Task.objects.count(), 0)
        # Run again by hand, it takes the chain up again.
        self.assertEqual(CompletedTask.objects.get().repeat, Task.DAILY)

    @GO_ON
    def test_with_the_setting_the_next_run_is_planned_afresh(self):
        for how in ({"permanent": True}, {}):
            task, claim = make_claimed_task(
                args=(1,),
                attempts=24,
                last_error="before",
                repeat=Task.DAILY,
                queue="q",
            )

            entry = books.fail(claim, "oops", **how)

            following = Task.objects.get()
            self.assertEqual(entry.repetition, following)
            self.assertEqual(following.run_at, task.run_at + timedelta(days=1))
            self.assertEqual(following.repeat, Task.DAILY)
            self.assertEqual((following.attempts, following.last_error), (0, ""))
            self.assertEqual((following.failed_at, following.locked_by), (None, None))
            self.assertEqual(
                (following.task_hash, following.queue), (task.task_hash, "q")
            )
            failed = CompletedTask.objects.failed().get()
            self.assertEqual((failed.attempts, failed.last_error), (25, "oops"))
            # Run again by hand, it must not begin another chain.
            self.assertEqual(failed.repeat, Task.NEVER)
            following.delete()
            failed.delete()

    @GO_ON
    def test_what_is_tried_again_has_no_repetition_yet(self):
        task, claim = make_claimed_task(repeat=Task.DAILY)

        entry = books.fail(claim, "oops")

        self.assertIsNone(entry.repetition)
        self.assertEqual(Task.objects.get(), task)

    @GO_ON
    def test_what_does_not_repeat_or_is_over_ends(self):
        for columns in ({}, {"repeat": 60, "repeat_until": timezone.now()}):
            _, claim = make_claimed_task(**columns)

            entry = books.fail(claim, "oops", permanent=True)

            self.assertIsNone(entry.repetition)
            self.assertEqual(entry.completed.repeat, columns.get("repeat", 0))
            self.assertEqual(Task.objects.count(), 0)

    @GO_ON
    def test_many_at_once_have_one_each(self):
        claims = [make_claimed_task(repeat=Task.DAILY)[1] for _ in range(3)]

        books.record([books.Ending(claim, "oops", True) for claim in claims])

        self.assertEqual(Task.objects.filter(repeat=Task.DAILY).count(), 3)
        self.assertEqual(CompletedTask.objects.filter(repeat=Task.NEVER).count(), 3)


class AbandonedTests(TransactionTestCase):
    def assert_abandoned(self, task, *, repeat):
        kept = Task.objects.failed().get()
        self.assertEqual(kept, task)
        self.assertEqual((kept.repeat, kept.last_error), (repeat, "it is kept"))
        self.assertEqual(kept.attempts, 1)

    def test_a_success_that_is_refused_is_repeated(self):
        with model_pointing_at_tasks(models.PROTECT) as Loan:
            task, claim = make_claimed_task(repeat=Task.HOURLY)
            Loan.objects.create(task=task)
            with self.assertRaises(models.ProtectedError):
                books.succeed(claim)

            self.assertTrue(books.abandon(claim, "it is kept", succeeded=True))
            self.assertFalse(books.abandon(claim, "it is kept", succeeded=True))

            self.assert_abandoned(task, repeat=Task.NEVER)
            following = Task.objects.get(failed_at=None)
            self.assertEqual(following.run_at, task.run_at + timedelta(hours=1))
            self.assertEqual((following.repeat, following.attempts), (Task.HOURLY, 0))

    def test_a_failure_keeps_its_chain(self):
        task, claim = make_claimed_task(repeat=Task.HOURLY)

        books.abandon(claim, "it is kept")

        self.assert_abandoned(task, repeat=Task.HOURLY)
        self.assertEqual(Task.objects.count(), 1)

    @GO_ON
    def test_a_failure_is_repeated_with_the_setting(self):
        task, claim = make_claimed_task(repeat=Task.HOURLY)

        books.abandon(claim, "it is kept")

        self.assert_abandoned(task, repeat=Task.NEVER)
        self.assertEqual(Task.objects.get(failed_at=None).repeat, Task.HOURLY)

    def test_if_the_repetition_is_refused_too_the_row_keeps_the_chain(self):
        def refuse(sender, instance, created, **named):
            if created and isinstance(instance, Task):
                raise RuntimeError("no more tasks")

        task, claim = make_claimed_task(repeat=Task.HOURLY)

        with receiver(post_save, refuse), self.assertLogs("background_task") as logs:
            self.assertTrue(books.abandon(claim, "it is kept", succeeded=True))

        self.assert_abandoned(task, repeat=Task.HOURLY)
        self.assertIn("without a repetition: no more tasks", logs.output[0])

    @GO_ON
    def test_a_row_that_cannot_be_read_keeps_the_chain(self):
        task = make_task(repeat=Task.HOURLY)
        make_unreadable(task)

        with self.assertLogs("background_task.models", "ERROR"):
            books.set_aside_unreadable(Task.objects.all())

        Task.objects.update(repeat_until=None)  # somebody mends it
        kept = Task.objects.get()
        self.assertEqual((kept.pk, kept.repeat), (task.pk, Task.HOURLY))
        self.assertIsNotNone(kept.failed_at)
        Task.objects.update(failed_at=None, last_error="")
        claim = books.Claim.of(kept.lock("a-runner"))
        self.assertIsNotNone(books.succeed(claim).repetition)
        self.assertEqual(Task.objects.count(), 1)


NIGHT = datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN).astimezone(UTC)


class LocalTimeTests(TestCase):
    def shown(self, task):
        return f"{task.run_at.astimezone(BERLIN):%H:%M:%S}"

    @KEEP_TIME
    def test_retries_do_not_move_it(self):
        _, claim = make_claimed_task(run_at=NIGHT, repeat=Task.DAILY)
        for _ in range(3):
            entry = books.fail(claim, "oops")
            self.assertNotEqual(self.shown(entry.task), "02:30:00")
            self.assertEqual(Task.objects.get().repeat_from, NIGHT)
            claim = books.Claim.of(entry.task.lock("a-runner"))

        following = books.succeed(claim).repetition

        following.refresh_from_db()
        self.assertEqual(self.shown(following), "02:30:00")
        self.assertGreater(following.run_at, timezone.now())
        self.assertIsNone(following.repeat_from)

    @KEEP_TIME
    @GO_ON
    def test_a_final_failure_does_not_move_it(self):
        late = timezone.now() - timedelta(seconds=1)
        _, claim = make_claimed_task(
            run_at=late, repeat_from=NIGHT, repeat=Task.WEEKLY, attempts=24
        )

        following = books.fail(claim, "oops").repetition

        self.assertEqual(self.shown(following), "02:30:00")
        self.assertEqual(following.run_at.astimezone(BERLIN).weekday(), NIGHT.weekday())

    def test_by_default_it_is_counted_from_the_last_try(self):
        _, claim = make_claimed_task(run_at=NIGHT, repeat=Task.DAILY)
        again = books.fail(claim, "oops").task

        following = books.succeed(books.Claim.of(again.lock("a-runner"))).repetition

        following.refresh_from_db()
        self.assertEqual(following.run_at, again.run_at + timedelta(days=1))
        self.assertIsNone(following.repeat_from)

    def test_what_is_moved_by_a_call_is_counted_from_there(self):
        tasks = Tasks()

        @tasks.background(name="job")
        def job(): ...

        waiting = job(repeat=Task.DAILY)
        Task.objects.update(repeat_from=NIGHT)

        job(schedule={"run_at": 60, "action": TaskSchedule.RESCHEDULE_EXISTING})

        moved = Task.objects.get()
        self.assertEqual(moved, waiting)
        self.assertIsNone(moved.repeat_from)


@override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
class WithoutUseTzTests(TransactionTestCase):
    @KEEP_TIME
    def test_a_retry_does_not_move_it(self):
        night = timezone.now().replace(hour=2, minute=30, second=0, microsecond=0)
        night -= timedelta(days=200)  # on another offset than today, or nearly so
        _, claim = make_claimed_task(run_at=night, repeat=Task.DAILY)
        entry = books.fail(claim, "oops")
        claim = books.Claim.of(entry.task.lock("a-runner"))

        following = books.succeed(claim).repetition

        following.refresh_from_db()
        self.assertEqual(f"{following.run_at:%H:%M:%S}", "02:30:00")
        self.assertGreater(following.run_at, timezone.now())
        self.assertLess(following.run_at, timezone.now() + timedelta(days=1, hours=1))


class InProcessTests(TransactionTestCase):
    def setUp(self):
        super().setUp()
        self.tasks = Tasks()

        @self.tasks.background(name="job")
        def job(fails=False):
            if fails:
                raise ValueError("oops")

        self.job = job

    @GO_ON
    @override_settings(MAX_ATTEMPTS=1)
    def test_the_chain_goes_on_after_a_failure(self):
        task = self.job(True, repeat=Task.HOURLY)

        with self.assertLogs("background_task"):
            self.tasks.run_next_task()

        following = Task.objects.get()
        self.assertEqual(following.run_at, task.run_at + timedelta(hours=1))
        self.assertEqual(following.attempts, 0)
        self.assertEqual(CompletedTask.objects.get().repeat, Task.NEVER)

    def test_a_success_that_is_refused_is_repeated(self):
        with model_pointing_at_tasks(models.PROTECT) as Loan:
            task = self.job(repeat=Task.HOURLY)
            Loan.objects.create(task=task)

            with self.assertLogs("background_task"):
                self.tasks.run_next_task()

            self.assertEqual(Task.objects.failed().get(), task)
            following = Task.objects.get(failed_at=None)
            self.assertEqual(following.repeat, Task.HOURLY)

    def test_a_runner_that_dies_leaves_the_chain_in_its_row(self):
        """It is free when MAX_RUN_TIME has passed, and goes on."""
        task = self.job(repeat=Task.HOURLY)
        Task.objects.update(
            locked_by="4711", locked_at=timezone.now() - timedelta(hours=2)
        )

        self.tasks.run_next_task()

        self.assertEqual(CompletedTask.objects.get().task_id, task.pk)
        self.assertEqual(Task.objects.get().repeat, Task.HOURLY)
