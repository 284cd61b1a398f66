"""A task that does what it should."""

import os

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from background_task.models import CompletedTask, Runner, Task
from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, run_until_empty


class DoneTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_a_success_is_completed_as_it_is_in_its_row_and_repeated(self):
        user = User.objects.create(username="ada")
        task = misbehaving.work(
            str(self.journal),
            "ünï ☃ 'quoted'",
            numbers=[1, 2.5, None, {"deep": True}],
            verbose_name="By Ada",
            priority=3,
            queue="q",
            creator=user,
            repeat=Task.DAILY,
        )
        urgent = misbehaving.become_urgent(str(self.journal), "urgent", priority=5)

        output = run_until_empty("--workers", 2)

        done = completed(task)
        self.assertEqual(sorted(self.journal.ended()), ["urgent", "ünï ☃ 'quoted'"])
        self.assertEqual(
            (done.attempts, done.last_error, done.failed_at), (1, "", None)
        )
        self.assertEqual((done.verbose_name, done.priority), ("By Ada", 3))
        self.assertEqual((done.queue, done.creator), ("q", user))
        self.assertEqual(done.task_params, task.task_params)
        self.assertEqual(completed(urgent).priority, 77)
        repetition = Task.objects.get()
        self.assertEqual(repetition.task_params, task.task_params)
        self.assertGreater(repetition.run_at, timezone.now())
        self.assertEqual((repetition.attempts, repetition.locked_by), (0, None))
        self.assertEqual(repetition.creator, user)
        self.assertEqual(Runner.objects.count(), 0)
        self.assertIn(f"Ran task and deleting task {task.pk} (By Ada)", output)

    def test_every_task_runs_in_a_process_of_its_own(self):
        for number in range(4):
            misbehaving.work(str(self.journal), f"task {number}")

        run_until_empty("--workers", 2)

        pids = {pid for _, pid, _, _ in self.journal.entries()}
        self.assertEqual(len(pids), 4)
        self.assertNotIn(os.getpid(), pids)
        self.assertEqual(CompletedTask.objects.succeeded().count(), 4)

    def test_the_urgent_come_first_and_then_the_earliest(self):
        for label, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 9)):
            misbehaving.work(str(self.journal), label, priority=priority)

        run_until_empty("--workers", 1)

        self.assertEqual(self.journal.begun(), ["high", "first", "second", "low"])

    def test_the_time_zone_of_the_project_does_not_matter(self):
        task = misbehaving.work(str(self.journal), "far east")

        run_until_empty(settings={"USE_TZ": False, "TIME_ZONE": "Asia/Karachi"})

        self.assertEqual(completed(task).attempts, 1)

    def test_what_a_task_leaves_running_ends_with_it(self):
        daemon = misbehaving.leave_behind(str(self.journal), "daemon")
        thread = misbehaving.leave_a_thread_behind(str(self.journal), "thread")

        run_until_empty("--workers", 2)

        # That nothing is left is seen to by `supervised`, for every test.
        self.assertEqual(completed(daemon).failed_at, None)
        self.assertEqual(completed(thread).failed_at, None)
        self.assertEqual(len(self.journal.begun()), 3)
