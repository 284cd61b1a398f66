"""A task that holds more memory than it may."""

import pytest

from background_task.models import CompletedTask
from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, note, refused, row, run_until_empty


class MemoryTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_it_is_stopped_and_the_row_names_the_limit(self):
        greedy = misbehaving.hold_memory(600)
        hiding = misbehaving.hold_memory_in_a_subprocess(600)
        modest = misbehaving.work(str(self.journal), "modest")

        run_until_empty(
            "--workers", 2, settings={"BACKGROUND_TASK_MEMORY_LIMIT": "300M"}
        )

        for how, task in (("itself", greedy), ("in a subprocess", hiding)):
            with self.subTest(how):
                stopped = row(task)
                self.assertEqual((stopped.attempts, stopped.locked_by), (1, None))
                self.assertRegex(
                    stopped.last_error,
                    r"^Stopped at \d+ MiB of memory: over the limit of 300 MiB "
                    r"\(BACKGROUND_TASK_MEMORY_LIMIT\)$",
                )
                note(f"holds 600 MiB {how}", stopped)
        self.assertEqual(completed(modest).attempts, 1)

    @pytest.mark.lifecycle
    def test_what_does_not_fit_into_the_budget_waits_its_turn(self):
        for number in range(3):
            misbehaving.work(str(self.journal), f"large {number}", 0.3)
        misbehaving.be_invalid("unlimited")

        output = run_until_empty(
            *("--workers", 3, "--memory-budget", "500M"),
            settings={
                "BACKGROUND_TASK_OVERRIDES": {
                    "tests.app.misbehaving.work": {"memory_limit": "300M"}
                }
            },
        )

        events = [(event, label) for event, _, _, label in self.journal.entries()]
        self.assertEqual(len(events), 6, output)
        for begin, end in zip(events[::2], events[1::2], strict=True):
            self.assertEqual((begin[0], end[0]), ("begin", "end"))
            self.assertEqual(begin[1], end[1])
        self.assertEqual(CompletedTask.objects.succeeded().count(), 3)
        self.assertEqual(CompletedTask.objects.failed().count(), 1)

    def test_what_can_never_fit_fails_for_good(self):
        task = misbehaving.work(str(self.journal), "giant")

        overrides = {"tests.app.misbehaving.work": {"memory_limit": "800M"}}
        run_until_empty(
            *("--memory-budget", "500M", "--workers", "auto"),
            settings={"BACKGROUND_TASK_OVERRIDES": overrides},
        )

        failed = completed(task)
        self.assertIsNotNone(failed.failed_at)
        self.assertIn("can never be had", failed.last_error)
        self.assertEqual(failed.attempts, 1)

    def test_a_budget_that_is_less_than_what_a_task_may_hold_is_refused(self):
        said = refused("--memory-limit", "200M", "--memory-budget", "100M", status=2)

        self.assertIn("--memory-budget is 100 MiB", said)
        self.assertIn("a task may hold 200 MiB (--memory-limit", said)

    def test_the_command_lines_limit_is_the_ceiling(self):
        task = misbehaving.hold_memory(600)

        overrides = {"tests.app.misbehaving.hold_memory": {"memory_limit": "4G"}}
        run_until_empty(
            "--memory-limit",
            "300M",
            settings={"BACKGROUND_TASK_OVERRIDES": overrides},
        )

        self.assertIn("300 MiB (--memory-limit)", row(task).last_error)
        note("holds 600 MiB, --memory-limit 300M", row(task))
