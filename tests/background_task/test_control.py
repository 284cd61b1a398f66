"""What may be done to tasks, and what is left alone."""

import threading
from datetime import timedelta
from importlib import import_module
from unittest import skipUnless

from django.apps import apps
from django.db import connection
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from background_task import books, control
from background_task.models import Attempt, CompletedTask, Control, Task
from background_task.orders import OrderBook
from background_task.pruning import prune
from background_task.served import EVERYTHING
from background_task.signals import task_failed
from tests.app import misbehaving

from .test_status import make_completed
from .tools import locked


def evidence(task_id, number, outcome="Failed"):
    return Attempt.objects.create(
        task_id=task_id,
        task_name="a",
        number=number,
        outcome=outcome,
        exit_code=-11,
        started_at=timezone.now(),
        ended_at=timezone.now(),
    )


def crash(task):
    """Return the end of one more try, which has crashed."""
    now = timezone.now()
    known = {"outcome": "Crashed", "exit_code": -11, "started_at": now, "ended_at": now}
    known |= {"host": "h", "runner_id": "r", "output": "", "output_size": 0}
    known |= {"stack": "", "pid": 1, "peak_memory": None, "cpu_seconds": None}
    return books.Ending(books.Claim.of(locked(task)), "crashed", evidence=known)


class ControlTests(TestCase):
    def failed(self, **more):
        task = misbehaving.fail("once", **more)
        locked(task)
        task.refresh_from_db()
        entry = books.fail(books.Claim.of(task), "ValueError", permanent=True)
        return entry.completed

    def test_what_waits_is_cancelled_and_what_runs_is_not(self):
        waiting, running = misbehaving.fail("a"), locked(misbehaving.fail("b"))
        told = []
        task_failed.connect(lambda **kw: told.append(kw["task_id"]), weak=False)
        self.addCleanup(setattr, task_failed, "receivers", [])

        with self.captureOnCommitCallbacks(execute=True):
            cancelled = control.cancel([waiting.pk, running.pk, 10**6], "ann")

        completed = CompletedTask.objects.get()
        self.assertEqual(cancelled, 1)
        self.assertEqual(completed.task_id, waiting.pk)
        self.assertEqual(completed.last_error, "Cancelled by ann")
        self.assertEqual(completed.attempts, 0)
        self.assertEqual(told, [waiting.pk])
        self.assertEqual(Task.objects.get(), running)

    def test_a_chain_ends_with_a_task_that_is_cancelled(self):
        task = misbehaving.fail("a", repeat=60)

        control.cancel([task.pk], "ann")

        self.assertFalse(Task.objects.exists())

    def test_only_what_runs_is_asked_to_stop_and_once(self):
        waiting, running = misbehaving.fail("a"), locked(misbehaving.fail("b"))

        asked = [control.stop([waiting.pk, running.pk], by) for by in ("ann", "bob")]

        row = Control.objects.get()
        self.assertEqual(asked, [1, 1])
        self.assertEqual(
            (row.verb, row.target, row.by), ("stop", str(running.pk), "bob")
        )

    def test_who_can_not_be_asked_is_not(self):
        by_pid = locked(misbehaving.fail("a"), by="4711")

        self.assertEqual(control.stop([by_pid.pk], "ann"), 0)

        self.assertFalse(Control.objects.exists())

    def test_run_now_leaves_what_runs_alone_and_gives_a_new_chance(self):
        later = timezone.now() + timedelta(days=1)
        waiting = misbehaving.fail("a", schedule=later)
        running = locked(misbehaving.fail("b", schedule=later))
        abandoned = misbehaving.fail("c", schedule=later)
        Task.objects.filter(pk=abandoned.pk).update(
            failed_at=later, attempts=25, last_error="x"
        )

        self.assertEqual(control.run_now([waiting.pk, running.pk, abandoned.pk]), 2)

        for task in (waiting, running, abandoned):
            task.refresh_from_db()
        self.assertLessEqual(waiting.run_at, timezone.now())
        self.assertEqual(running.run_at, later)
        self.assertEqual((abandoned.failed_at, abandoned.attempts), (None, 0))

    def test_what_is_due_keeps_its_moment_and_its_turn(self):
        since = timezone.now() - timedelta(minutes=5)
        due, chain = misbehaving.fail("a"), misbehaving.fail("b", repeat=3600)
        abandoned = misbehaving.fail("c")
        Task.objects.update(run_at=since)
        Task.objects.filter(pk=abandoned.pk).update(failed_at=since)

        self.assertEqual(control.run_now([due.pk, chain.pk, abandoned.pk]), 3)

        for task in (due, chain, abandoned):
            task.refresh_from_db()
        self.assertEqual((due.run_at, chain.run_at), (since, since))
        self.assertIsNone(chain.repeat_from)
        self.assertGreater(abandoned.run_at, since)  # it has not waited till now

    def test_a_failed_task_is_retried_once_under_its_id(self):
        failed = self.failed(
            verbose_name="it", priority=3, queue="mail", repeat=60, max_run_time=7.5
        )

        new = control.retry([failed.pk])
        again = control.retry([failed.pk])

        task = Task.objects.get()
        self.assertEqual((new, again), ({failed.pk: failed.task_id}, {}))
        self.assertEqual(task.pk, failed.task_id)
        self.assertEqual(task.params(), (["once"], {}))
        self.assertEqual((task.verbose_name, task.priority), ("it", 3))
        self.assertEqual((task.queue, task.repeat, task.attempts), ("mail", 60, 0))
        self.assertEqual((task.last_error, task.max_run_time), ("", 7.5))
        self.assertFalse(CompletedTask.objects.exists())

    def test_a_chain_goes_on_at_its_own_time(self):
        now = timezone.now()
        night = now.replace(microsecond=0) - timedelta(hours=5)
        for how in ("failed for good", "waits", "given up in place", "not due yet"):
            for zone in (None, "UTC"):
                for repeat in (Task.DAILY, Task.HOURLY):
                    planned = night + timedelta(hours=10 if how == "not due yet" else 0)
                    with (
                        self.subTest(how, zone=zone, repeat=repeat),
                        self.settings(BACKGROUND_TASK_REPEAT_TIMEZONE=zone),
                    ):
                        task = self.run_again(how, planned, repeat)
                        self.assertLess(task.run_at - now, timedelta(minutes=1))
                        claim = books.Claim.of(locked(task))

                        following = books.succeed(claim).repetition

                        off = (following.run_at - planned).total_seconds()
                        self.assertEqual(off % repeat, 0)
                        self.assertLess(now, following.run_at)
                        left = following.run_at - now
                        if how != "not due yet":
                            self.assertLess(left, timedelta(seconds=repeat + 1))
                        else:  # that run is still to come, and no other before
                            self.assertEqual(following.run_at, planned)
                        Task.objects.all().delete()

    def test_the_end_of_a_back_off_is_no_moment_of_its_chain(self):
        planned = timezone.now() - timedelta(minutes=3)
        for how in ("run now", "cancelled and retried"):
            for zone in (None, "UTC"):
                for repeat in (Task.DAILY, Task.HOURLY):
                    with (
                        self.subTest(how, zone=zone, repeat=repeat),
                        self.settings(BACKGROUND_TASK_REPEAT_TIMEZONE=zone),
                    ):
                        task = misbehaving.fail("a", schedule=planned, repeat=repeat)
                        books.fail(books.Claim.of(locked(task)), "x")
                        if how == "run now":
                            control.run_now([task.pk])
                        else:
                            control.cancel([task.pk], "ann")
                            control.retry([CompletedTask.objects.latest("pk").pk])
                        (task,) = Task.objects.all()
                        self.assertLessEqual(task.run_at, timezone.now())

                        following = books.succeed(books.Claim.of(locked(task)))

                        run_at = following.repetition.run_at
                        moved = (run_at - planned).total_seconds() - repeat
                        keeps_time = zone is not None and repeat == Task.DAILY
                        self.assertLess(abs(moved), 4 * 60)
                        self.assertEqual(moved == 0, keeps_time)
                    Task.objects.all().delete()

    def test_what_was_run_by_its_id_before_it_was_due_is_one_run_more(self):
        planned = timezone.now().replace(microsecond=0) + timedelta(hours=3)
        for how in ("succeeded", "failed, then succeeded", "failed for good"):
            for zone in (None, "UTC"):
                with (
                    self.subTest(how, zone=zone),
                    self.settings(BACKGROUND_TASK_REPEAT_TIMEZONE=zone),
                ):
                    task = locked(
                        misbehaving.fail("a", schedule=planned, repeat=Task.DAILY)
                    )
                    books.begun_ahead(books.Claim.of(task))
                    if how != "succeeded":
                        final = how == "failed for good"
                        entry = books.fail(books.Claim.of(task), "x", permanent=final)
                        if entry.completed:
                            control.retry([entry.completed.pk])
                        task = locked(Task.objects.get())

                    following = books.succeed(books.Claim.of(task)).repetition

                    self.assertEqual(following.run_at, planned)
                    self.assertIsNone(following.repeat_from)
                Task.objects.all().delete()

    def run_again(self, how, planned, repeat):
        """Have a task of a chain run again that was planned for a moment."""
        task = misbehaving.fail("a", schedule=planned, repeat=repeat)
        if how == "failed for good":
            entry = books.fail(books.Claim.of(locked(task)), "x", permanent=True)
            control.retry([entry.completed.pk])
        elif how == "given up in place":
            books.abandon(books.Claim.of(locked(task)), "x")
        control.run_now([task.pk])
        return Task.objects.get()

    def test_its_tries_are_those_of_the_new_task(self):
        failed = self.failed()
        evidence(failed.task_id, 1, "Crashed")
        evidence(failed.task_id, 2, "Crashed")
        other = evidence(10**6, 1)

        (pk,) = control.retry([failed.pk]).values()

        task = Task.objects.get(pk=pk)
        with override_settings(BACKGROUND_TASK_MAX_CRASHES=2):
            entry = books.record([crash(task)])[0]
        self.assertIsNone(entry.completed)  # one crash, of two
        self.assertEqual([t.number for t in task.history], [1, 2, 1])
        task.refresh_from_db()
        with override_settings(BACKGROUND_TASK_MAX_CRASHES=2):
            completed = books.record([crash(task)])[0].completed
        self.assertIn("has died 2 times", completed.last_error)
        self.assertEqual(completed.history.count(), 4)
        prune(CompletedTask.objects.all())
        self.assertEqual(Attempt.objects.get(), other)

    def test_an_id_that_another_has_is_left_to_it(self):
        first, second = self.failed(), self.failed()
        CompletedTask.objects.filter(pk=second.pk).update(task_id=first.task_id)
        evidence(first.task_id, 1)

        new = control.retry([first.pk, second.pk])
        fresh = misbehaving.fail("next")

        self.assertEqual(new[first.pk], first.task_id)
        self.assertEqual(len({*new.values(), fresh.pk}), 3)
        self.assertEqual(Task.objects.count(), 3)

    def test_a_stop_of_the_former_try_is_none_of_the_next(self):
        running = locked(misbehaving.fail("a"))
        running.refresh_from_db()
        control.stop([running.pk], "ann")
        claim = books.Claim.of(running)
        failed = books.fail(claim, "ValueError", permanent=True).completed

        control.retry([failed.pk])

        self.assertFalse(Control.objects.exists())

    def test_what_succeeded_is_not_retried(self):
        task = locked(misbehaving.fail("a"))
        task.refresh_from_db()
        entry = books.succeed(books.Claim.of(task))

        self.assertEqual(control.retry([entry.completed.pk]), {})
        self.assertTrue(CompletedTask.objects.exists())

    def test_priorities_of_what_waits(self):
        waiting, running = misbehaving.fail("a"), locked(misbehaving.fail("b"))

        self.assertEqual(control.change_priority([waiting.pk, running.pk], 5), 1)
        self.assertEqual(Task.objects.get(pk=waiting.pk).priority, 5)


@skipUnless(connection.vendor == "sqlite", "where there is one lock for all")
class BusyTests(TransactionTestCase):
    def test_a_retry_waits_for_another_who_writes(self):
        failed = make_completed()
        writes, may_end = threading.Event(), threading.Event()

        def write():
            try:
                with connection.cursor() as cursor:
                    cursor.execute("BEGIN IMMEDIATE")
                    cursor.execute("UPDATE background_task SET priority = 1")
                    writes.set()
                    may_end.wait(0.5)
                    cursor.execute("COMMIT")
            finally:
                connection.close()

        writer = threading.Thread(target=write)
        writer.start()
        writes.wait(10)
        try:
            new = control.retry([failed.pk])
        finally:
            may_end.set()
            writer.join()

        self.assertEqual(list(new), [failed.pk])


class PausedTwiceTests(TestCase):
    def test_a_pause_of_what_is_in_no_queue_is_one_of_an_empty_name_too(self):
        """Which 1.2.8 has written for `queue=""`."""
        control.pause(control.NO_QUEUE, "ann")

        awake = control.awake(EVERYTHING)

        self.assertEqual([queue in awake for queue in (None, "", "mail")], [0, 0, 1])

    def test_a_pause_that_stands_keeps_by_whom_it_is(self):
        paused = control.pause("mail", "bob"), control.pause("mail", "ann")

        self.assertEqual(paused, (True, False))
        self.assertEqual(control.paused().get().by, "bob")


class PauseTests(TransactionTestCase):
    """A queue is meant to the letter, whatever a database takes for the same."""

    NAMES = frozenset({"mail", "Mail", "mail ", "mäil"})

    def setUp(self):
        super().setUp()
        if connection.vendor == "mysql":  # as where a project says nothing
            self.addCleanup(self.compare_to_the_letter)
            with connection.cursor() as cursor:
                cursor.execute(
                    "ALTER TABLE background_task_control MODIFY target varchar(190) "
                    "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL"
                )
            self.compare_to_the_letter()

    def compare_to_the_letter(self):
        """Do what a migration does."""
        Control.objects.all().delete()
        name = "background_task.migrations.0012_control_to_the_letter"
        with connection.schema_editor() as editor:
            import_module(name).compare_to_the_letter(apps, editor)

    def test_queues_that_are_alike_are_paused_and_resumed_one_by_one(self):
        for name in sorted(self.NAMES):
            control.pause(name, f"by {name}")

        paused = OrderBook("r").read(set()).paused
        by = {row.target: row.by for row in control.paused()}
        resumed = control.resume("mail"), control.resume("MAIL")

        self.assertEqual(paused, self.NAMES)
        self.assertEqual(by, {name: f"by {name}" for name in self.NAMES})
        self.assertEqual(resumed, (True, False))
        left = {row.target for row in control.paused()}
        self.assertEqual(left, self.NAMES - {"mail"})
