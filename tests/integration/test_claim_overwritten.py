"""Somebody writes to the row of a task that runs: no second try starts beside it."""

from datetime import timedelta

import pytest
from django.db.models import F

from background_task.models import Runner, Task
from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, is_held, row, supervised, wait_until


class ClaimOverwrittenTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.gate = self.folder / "gate"
        self.task = misbehaving.wait_for(str(self.journal), "it", str(self.gate))

    def assert_it_runs_alone(self):
        """What was claimed after `it` was free would be claimed again has ended."""
        completed(misbehaving.work(str(self.journal), "another", priority=-1))
        self.assertEqual(self.journal.begun().count("it"), 1)

    def test_an_instance_from_before_the_claim_is_saved(self):
        with supervised("--workers", 2):
            self.journal.pid_of("it")

            self.task.priority = 77
            self.task.save()

            self.assertTrue(is_held(self.task))
            self.assertEqual(row(self.task).priority, 77)
            self.assert_it_runs_alone()
            self.gate.touch()
            completed(self.task)

    @pytest.mark.lifecycle
    def test_it_is_unlocked_by_hand(self):
        with supervised("--workers", 2):
            self.journal.pid_of("it")

            Task.objects.filter(pk=self.task.pk).update(locked_by=None, locked_at=None)

            self.assert_it_runs_alone()
            self.gate.touch()
            completed(self.task)

        self.assertEqual(self.journal.begun().count("it"), 2)
        self.assertEqual(self.journal.overlaps(), [])

    def test_its_claim_is_moved(self):
        with supervised("--workers", 2, settings={"BACKGROUND_TASK_LEASE": 6}):
            self.journal.pid_of("it")

            Task.objects.filter(pk=self.task.pk).update(
                locked_at=F("locked_at") - timedelta(minutes=1)
            )

            self.wait_for_renewals(2)
            self.assertTrue(is_held(self.task))
            self.gate.touch()
            completed(self.task)

        self.assertEqual(self.journal.overlaps(), [])

    def wait_for_renewals(self, times):
        """At each of them the runner compares what it holds."""
        for _ in range(times):
            before = Runner.objects.get().trusted_until
            wait_until(
                lambda before=before: Runner.objects.get().trusted_until > before,
                what="a renewal of the lease",
            )
