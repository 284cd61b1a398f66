"""What is removed of what is over, and what stays."""

import threading
from datetime import timedelta
from io import StringIO
from unittest import skipIf

from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from background_task import pruning
from background_task.limits import SettingError
from background_task.models import Attempt, CompletedTask
from background_task.pruning import prunable, prune


def ended(days_ago, *, failed=False, tries=1, task_id=None):
    """Save a task that came to its end so long ago, with its tries."""
    moment = timezone.now() - timedelta(days=days_ago)
    row = CompletedTask.objects.create(
        task_name="shop.tasks.job",
        task_params="[[], {}]",
        task_hash="0" * 40,
        run_at=moment,
        failed_at=moment if failed else None,
        task_id=task_id,
    )
    if task_id is not None:
        Attempt.objects.bulk_create(
            Attempt(task_id=task_id, number=n, outcome="Failed", ended_at=moment)
            for n in range(1, tries + 1)
        )
    return row


def left():
    return set(CompletedTask.objects.values_list("pk", flat=True))


def keeping(days):
    return override_settings(BACKGROUND_TASK_KEEP_COMPLETED=days)


class PruneTests(TestCase):
    def setUp(self):
        self.old = ended(10, tries=3, task_id=1), ended(9, task_id=2)
        self.old_failed = ended(10, failed=True, tries=2, task_id=3)
        self.of_128 = ended(10)
        self.young = ended(1, task_id=4), ended(1, failed=True, task_id=5)
        self.week_ago = timezone.now() - timedelta(days=7)

    def test_old_ones_go_with_their_tries_and_no_others(self):
        pruned = prune(prunable(self.week_ago))

        self.assertEqual((pruned.tasks, pruned.attempts), (4, 6))
        self.assertEqual(left(), {row.pk for row in self.young})
        ids = set(Attempt.objects.values_list("task_id", flat=True))
        self.assertEqual(ids, {4, 5})

    def test_one_outcome_and_a_few_at_a_time_the_oldest_first(self):
        tasks = prunable(self.week_ago, "succeeded")

        self.assertEqual(tasks.count(), 3)
        self.assertEqual(prune(tasks, 2).tasks, 2)
        self.assertIn(self.old[1].pk, left())
        self.assertEqual([prune(tasks, 2).tasks, prune(tasks, 2).tasks], [1, 0])
        self.assertIn(self.old_failed.pk, left())
        failed = prune(prunable(self.week_ago, "failed"))
        self.assertEqual((failed.tasks, failed.attempts), (1, 2))

    def test_what_the_setting_says(self):
        for days, gone in (
            (None, 0),
            (0, 0),
            (30, 0),
            ({"failed": 7}, 1),
            ({"succeeded": 7.5, "failed": None}, 3),
            (0.5, 2),
        ):
            with self.subTest(days), keeping(days):
                self.assertEqual(pruning.Pruner().prune(), gone)

    def test_it_goes_on_where_it_has_been(self):
        with keeping(7):
            pruner = pruning.Pruner()
            counts = [pruner.prune(1) for _ in range(6)]
            late = ended(8.5)
            counts.append(pruner.prune(5))

        self.assertEqual(counts, [1, 1, 1, 1, 0, 0, 1])
        self.assertNotIn(late.pk, left())


class SettingTests(TestCase):
    def test_values_that_cannot_be_are_refused(self):
        for value, text in (
            ("7", "BACKGROUND_TASK_KEEP_COMPLETED is '7'"),
            (-1, "is -1: it must be a number of days"),
            (True, "is True"),
            (False, "is False"),
            (1e9, "is 1000000000.0"),
            ({"lost": 1}, "has ['lost']: its keys must be 'succeeded' and 'failed'"),
            ({"failed": "x"}, "BACKGROUND_TASK_KEEP_COMPLETED['failed'] is 'x'"),
        ):
            with self.subTest(value), keeping(value):
                with self.assertRaises(SettingError) as raised:
                    pruning.keep_completed()
                self.assertIn(text, str(raised.exception))
                found = {message.id for message in run_checks()}
                self.assertIn("background_task.E007", found)


@skipIf(connection.vendor == "sqlite", "one lock for all")
class SideBySideTests(TransactionTestCase):
    def test_what_another_is_at_is_passed_over_without_waiting(self):
        rows = [ended(10, task_id=n) for n in (1, 2, 3)]
        tasks = prunable(timezone.now())
        pruned, out = [], StringIO()

        def meanwhile():
            try:
                pruned.append(prune(tasks).tasks)
                told = {"stdout": out, "stderr": out}
                call_command("tasks_prune", older_than=timedelta(0), **told)
            finally:
                connections.close_all()

        with transaction.atomic():
            held = CompletedTask.objects.select_for_update().get(pk=rows[0].pk)
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()

        self.assertEqual(pruned, [2])
        self.assertIn("Removed, of what succeeded: 0", out.getvalue())
        self.assertIn("or has locked it: ask again", out.getvalue())
        self.assertEqual(left(), {held.pk})
        self.assertEqual(Attempt.objects.get().task_id, 1)
