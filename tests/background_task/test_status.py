"""What is asked of the database, and that it is bounded."""

from datetime import timedelta
from unittest import mock

from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from background_task import control, status
from background_task.models import CompletedTask, Runner, Task

from .tools import KNOWN, make_runner, make_task

LATER = timedelta(hours=1)


def make_completed(name="app.tasks.job", ago=timedelta(0), failed=True):
    moment = timezone.now() - ago
    return CompletedTask.objects.create(
        task_name=name,
        task_params="[[], {}]",
        task_hash="x",
        run_at=moment,
        failed_at=moment if failed else None,
    )


class QueueTests(TestCase):
    def queues(self):
        return {queue.name: queue for queue in status.queues(timezone.now())}

    def test_each_queue_has_its_counts(self):
        now = timezone.now()
        oldest = make_task(queue="mail", run_at=now - timedelta(minutes=10))
        make_task(queue="mail", priority=5)
        make_task(queue="mail", priority=-5, run_at=now + LATER, attempts=1)
        make_task(queue="mail", locked_by="r", locked_at=now, attempts=1)
        make_task(queue="mail", failed_at=now, attempts=3)
        make_task(run_at=now + LATER)

        mail, none = self.queues()["mail"], self.queues()[None]

        self.assertEqual(set(self.queues()), {None, "mail"})
        self.assertEqual((mail.waiting, mail.due, mail.running), (3, 2, 1))
        self.assertEqual((mail.retrying, mail.abandoned), (1, 1))
        self.assertEqual(mail.oldest_due, Task.objects.get(pk=oldest.pk).run_at)
        self.assertAlmostEqual(mail.age(now), 600, delta=1)
        self.assertEqual((none.waiting, none.due, none.age(now)), (1, 0, None))

    def test_nothing_there_is_no_queue(self):
        self.assertEqual(self.queues(), {})
        self.assertEqual(status.queues(timezone.now(), ["mail"])[0].waiting, 0)

    def test_a_pause_is_of_the_queue_or_of_all(self):
        make_task(queue="mail")
        make_task()
        control.pause("mail", "ann")
        self.assertEqual(self.queues()["mail"].paused_by, "ann")
        self.assertFalse(self.queues()[None].is_paused)
        control.pause(control.NO_QUEUE, "bob")
        self.assertEqual(self.queues()[None].paused_by, "bob")
        control.pause(control.EVERY_QUEUE, "eve")
        self.assertEqual(self.queues()["mail"].paused_by, "eve")

    def test_counts_end_where_they_are_told_to(self):
        for _ in range(5):
            make_task(queue="mail", attempts=1)
        with mock.patch.object(status, "MOST", 3):
            mail = self.queues()["mail"]
            text = status.count_text(mail.due)

        self.assertEqual((mail.waiting, mail.due, mail.retrying), (4, 4, 4))
        self.assertEqual(text, "3+")
        self.assertEqual(status.count_text(3), "3")

    def test_what_is_due_is_seen_behind_whatever_waits(self):
        now = timezone.now()
        for number in range(4):
            make_task(queue=f"a{number}", run_at=now + LATER)
            make_task(queue="mail", priority=-number, run_at=now + LATER)
        make_task(queue="mail", priority=-9, run_at=now - LATER)
        oldest = make_task(queue="zzz", priority=-9, run_at=now - 2 * LATER)
        with (
            mock.patch.object(status, "_QUEUES", 2),
            mock.patch.object(status, "_PRIORITIES", 2),
        ):
            seen = self.queues()
            with mock.patch.object(status, "MOST", 1):
                cut = self.queues()

        for found in seen, cut:
            self.assertEqual(found["zzz"].due, 1)
            self.assertEqual(found["zzz"].oldest_due, oldest.run_at)
        self.assertEqual(seen["mail"].due, 1)

    def test_what_is_held_or_given_up_is_not_due(self):
        moment = timezone.now() - LATER
        make_task(queue="mail", run_at=moment, locked_by="r", locked_at=moment)
        make_task(queue="mail", run_at=moment, failed_at=moment)

        self.assertEqual(self.queues()["mail"].due, 0)
        self.assertIsNone(self.queues()["mail"].oldest_due)

    def test_more_rows_are_no_more_statements(self):
        make_task(queue="mail")
        with CaptureQueriesContext(connection) as few:
            status.status()
        for _ in range(20):
            make_task(queue="mail")
            make_completed()
        with CaptureQueriesContext(connection) as many:
            status.status()

        self.assertEqual(len(many), len(few))


class RunnerTests(TestCase):
    def test_who_lives_and_what_it_runs(self):
        make_runner("dead", trusted_for=timedelta(seconds=-5))
        make_runner("alive")
        Runner.objects.update(lease=30, slots=2)
        task = make_task(queue="mail", locked_by="alive", locked_at=timezone.now())
        Task.objects.filter(pk=task.pk).update(progress_done=3, progress_total=9)
        shown = {"pid": 7, "began": 1, "held": 5, "memory": None, "seconds": 60}
        shown |= {"task": task.pk, "name": task.task_name}
        gone = shown | {"task": 10**6, "name": "gone"}
        Runner.objects.filter(pk="alive").update(running=[shown, gone])

        runners = {runner.id: runner for runner in status.runners()}
        alive, dead = runners["alive"], runners["dead"]

        self.assertEqual((alive.used, alive.slots, alive.is_serving), (1, 2, True))
        self.assertTrue(dead.is_stale)
        self.assertFalse(dead.is_serving)
        self.assertGreaterEqual(dead.seen_ago, 34)
        running, unknown = alive.running
        self.assertEqual((running.queue, running.progress_done), ("mail", 3))
        self.assertEqual((unknown.title, unknown.attempt), ("gone", None))
        self.assertGreater(running.elapsed, 10**6)

    def test_what_is_due_is_served_by_who_lives_and_takes_it(self):
        make_task(queue="mail")
        (mail,) = status.queues(timezone.now())
        make_runner("r")
        for columns, is_unserved in (
            ({}, False),
            ({"queues": ["mail"]}, False),
            ({"queues": ["news"]}, True),
            ({"queues": ["mail"], "draining": True}, True),
        ):
            Runner.objects.update(**{"queues": [], "draining": None} | columns)
            with self.subTest(columns):
                found = status.unserved(mail, status.runners())
                self.assertEqual(found, is_unserved)


class NameTests(TestCase):
    def test_a_name_is_meant_to_the_letter_and_counts_end(self):
        for name in ("a.gone", "b.gone", "b.gone", "b.gone", KNOWN.upper(), KNOWN):
            make_task(name)
        found = status.unregistered(timezone.now())
        with mock.patch.object(status, "MOST", 2):
            few = status.unregistered(timezone.now())
            text = status.unregistered_text(few)

        told = [(one.name, one.due) for one in found]
        self.assertEqual(told, [("b.gone", 3), (KNOWN.upper(), 1), ("a.gone", 1)])
        self.assertEqual({one.name for one in few}, {one.name for one in found})
        self.assertRegex(text, r"^[34]\+ due tasks are of names")


class EndedTests(TestCase):
    def test_what_failed_in_the_hour_and_the_day(self):
        make_completed("a")
        make_completed("a", ago=timedelta(hours=2))
        make_completed("b", ago=timedelta(hours=3))
        make_completed("c", ago=timedelta(days=2))
        make_completed("d", failed=False)
        for ago in timedelta(0), timedelta(hours=2):
            cancelled = make_completed("e", ago=ago)
            CompletedTask.objects.filter(pk=cancelled.pk).update(
                last_error="Cancelled by ann"
            )

        ended = status.ended(timezone.now())

        self.assertEqual((ended.in_hour, ended.failed_in_hour), (3, 1))
        self.assertEqual(ended.failed_in_day, 3)
        self.assertEqual((ended.cancelled_in_hour, ended.cancelled_in_day), (1, 2))
        self.assertTrue(ended.hour_is_all and ended.day_is_all)
        with mock.patch.object(status, "MOST", 2):
            some = status.ended(timezone.now())
        self.assertEqual((some.failed_in_day, some.cancelled_in_day), (1, 1))
        self.assertTrue(some.hour_is_all)
        self.assertFalse(some.day_is_all)
        self.assertEqual(ended.failed_names, [("a", 2), ("b", 1)])
