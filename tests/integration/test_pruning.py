"""Bookkeepers prune what is over, beside their work."""

from datetime import timedelta

import pytest
from django.utils import timezone

from background_task.models import Attempt, CompletedTask
from tests.app import misbehaving
from tests.background_task.test_pruning import ended

from .tools import LifecycleTestCase, completed, refused, stop, supervised, wait_until


class PruningTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_what_need_not_be_kept_goes_while_tasks_run(self):
        for n in range(700):
            ended(10 + n / 1000, task_id=1_000_000 + n)
        failed = ended(10, failed=True, task_id=2_000_000)
        settings = {"BACKGROUND_TASK_KEEP_COMPLETED": {"succeeded": 7, "failed": 90}}
        week_ago = timezone.now() - timedelta(days=7)
        old = CompletedTask.objects.succeeded().filter(run_at__lt=week_ago)

        # Two, since they must not fight.
        with supervised(settings=settings) as one, supervised(settings=settings) as two:
            task = misbehaving.work(str(self.journal), "meanwhile")
            wait_until(lambda: not old.exists(), what="the old ones are gone")
            done = completed(task)
            statuses = stop(one), stop(two)
            outputs = one.output + two.output

        self.assertEqual(statuses, (0, 0))
        self.assertEqual(
            set(CompletedTask.objects.values_list("pk", flat=True)),
            {failed.pk, done.pk},
        )
        self.assertEqual(Attempt.objects.filter(task_id__gte=1_000_000).count(), 1)
        self.assertNotIn("ERROR", outputs)

    def test_a_setting_that_cannot_be_is_refused(self):
        output = refused(settings={"BACKGROUND_TASK_KEEP_COMPLETED": {"lost": 1}})

        self.assertIn("its keys must be 'succeeded' and 'failed'", output)
