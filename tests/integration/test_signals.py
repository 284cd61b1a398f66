"""What the project's signal receivers hear of a task, and from which process."""

import json
import os

import pytest

from background_task.models import CompletedTask, Control, Task
from tests.app import misbehaving

from .tools import LifecycleTestCase, attempted, completed, put, run_until_empty


class SignalTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.heard = self.folder / "heard"
        self.how = {"environment": {"TEST_SIGNALS": str(self.heard)}}

    def of(self, task_name):
        """Return (signal, sender) in the order in which they were heard of a name."""
        return [
            (one["signal"], one["sender"])
            for one in self.entries()
            if one["name"] and one["name"].endswith(task_name)
        ]

    def entries(self):
        return [json.loads(line) for line in self.heard.read_text().splitlines()]

    @pytest.mark.lifecycle
    def test_a_success_is_announced_after_it_was_recorded(self):
        task = misbehaving.work(str(self.journal), "a", repeat=Task.DAILY)

        output = run_until_empty(**self.how)

        signals = [(one["signal"], one["sender"]) for one in self.entries()]
        self.assertEqual(
            signals,
            [
                ("task_started", "Task"),
                ("task_successful", "Task"),
                ("task_finished", "Task"),
            ],
        )
        started, successful, finished = self.entries()
        self.assertEqual(successful["arguments"], ["completed_task", "task_id"])
        self.assertEqual((successful["task"], successful["attempts"]), (task.pk, 1))
        self.assertEqual(successful["pid"], finished["pid"])
        self.assertNotIn(successful["pid"], (started["pid"], os.getpid()))
        self.assertIsNone(completed(task).failed_at)
        self.assertEqual(Task.objects.count(), 1, "the repetition")
        self.assertIn("a receiver changes no outcome", output)

    @pytest.mark.lifecycle
    def test_a_failure_is_told_as_it_is_raised_and_when_it_is_recorded(self):
        raising = misbehaving.fail("a bad day")
        invalid = misbehaving.be_invalid("never")

        run_until_empty(**self.how)

        self.assertEqual(attempted(raising, 1).attempts, 1)
        self.assertIsNotNone(completed(invalid).failed_at)
        self.assertEqual(
            self.of("misbehaving.fail"),
            [("task_error", "ValueError"), ("task_rescheduled", "Task")],
        )
        self.assertEqual(
            self.of("misbehaving.be_invalid"),
            [("task_error", "InvalidTaskError"), ("task_failed", "Task")],
        )
        named = [one["signal"] for one in self.entries()]
        self.assertEqual(named.count("task_finished"), 2)
        self.assertEqual(named.count("task_error"), 2)

    @pytest.mark.lifecycle
    def test_of_a_task_that_was_killed_the_announcer_tells_everything(self):
        put("segfault")
        put("os_exit", 3)
        put("hold_memory", 300)
        put("spin_in_c", attempts=24)  # its last

        run_until_empty(
            "--workers",
            2,
            "--memory-limit",
            "200M",
            settings={
                "BACKGROUND_TASK_OVERRIDES": {
                    "tests.app.misbehaving.spin_in_c": {"max_run_time": 1}
                },
                "BACKGROUND_TASK_GRACE": 0.5,
            },
            **self.how,
        )

        rescheduled = ("task_rescheduled", "Task")
        crashed = [("task_error", "TaskCrashed"), rescheduled]
        self.assertEqual(self.of("segfault"), crashed)
        self.assertEqual(self.of("os_exit"), crashed)
        self.assertEqual(
            self.of("hold_memory"), [("task_error", "TaskOutOfMemory"), rescheduled]
        )
        self.assertEqual(
            self.of("spin_in_c"),
            [("task_error", "TaskTimeout"), ("task_failed", "Task")],
        )
        failed = CompletedTask.objects.get()
        self.assertEqual((failed.attempts, failed.has_error()), (25, True))

    def test_one_that_waits_and_is_stopped_is_announced(self):
        task = misbehaving.fail("never", schedule=3600)
        now = task.run_at
        Control.objects.create(verb="stop", target=task.pk, by="ann", at=now)

        run_until_empty(**self.how)

        signals = [(one["signal"], one["task"]) for one in self.entries()]
        self.assertIn(("task_failed", task.pk), signals)

    def test_a_task_that_was_deleted_while_it_ran_stays_so_and_nobody_is_told(self):
        for message in ("", "and it fails"):
            with self.subTest(message):
                self.heard.unlink(missing_ok=True)
                put("delete_own_row", message)

                run_until_empty(**self.how)

                left = Task.objects.count(), CompletedTask.objects.count()
                self.assertEqual(left, (0, 0))
                signals = {one["signal"] for one in self.entries()}
                expected = (
                    {"task_started", "task_error"} if message else {"task_started"}
                )
                self.assertEqual(signals, expected)
