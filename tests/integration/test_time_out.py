"""A task that runs for longer than it may."""

import pytest

from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, note, row, run_until_empty

TASKS = "tests.app.misbehaving"


class TimeOutTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_it_is_stopped_and_the_try_counts(self):
        sleeping = misbehaving.unwind(str(self.journal), "sleeping", 600)
        in_time = misbehaving.work(str(self.journal), "in time")

        run_until_empty("--workers", 2, settings={"MAX_RUN_TIME": 1})

        stopped = row(sleeping)
        self.assertEqual(stopped.last_error, "Stopped after 1 s (MAX_RUN_TIME)")
        self.assertEqual((stopped.attempts, stopped.locked_by), (1, None))
        events = [event for event, *_, label in self.journal.entries() if "sl" in label]
        self.assertEqual(events, ["begin", "unwound"])
        self.assertEqual(completed(in_time).attempts, 1)
        note("sleeps over MAX_RUN_TIME", stopped)

    def test_however_it_resists(self):
        tries = {
            "spins in C over MAX_RUN_TIME": misbehaving.spin_in_c(),
            "blocks SIGTERM over MAX_RUN_TIME": misbehaving.block_term(600),
            "hides in a subprocess": misbehaving.hide_in_a_subprocess(600),
            "left a daemon behind": misbehaving.leave_behind(
                str(self.journal), "daemon", 600
            ),
        }

        settings = {"MAX_RUN_TIME": 1, "BACKGROUND_TASK_GRACE": 0.5}
        run_until_empty("--workers", 4, settings=settings)

        for how, task in tries.items():
            with self.subTest(how):
                stopped = row(task)
                self.assertEqual(stopped.attempts, 1)
                self.assertIn("after 1 s (MAX_RUN_TIME)", stopped.last_error)
                note(how, stopped)

    def test_the_most_particular_limit_is_the_one_that_is_named(self):
        task = misbehaving.work(str(self.journal), "overridden", 600)

        overrides = {f"{TASKS}.work": {"max_run_time": 0.5}}
        run_until_empty(settings={"BACKGROUND_TASK_OVERRIDES": overrides})

        self.assertEqual(
            row(task).last_error,
            "Stopped after 0.5 s (max_run_time of BACKGROUND_TASK_OVERRIDES)",
        )
        note("sleeps over an override", row(task))

    def test_the_last_try_may_be_a_killed_one(self):
        task = misbehaving.block_term(600)

        settings = {"MAX_RUN_TIME": 0.5, "BACKGROUND_TASK_GRACE": 0, "MAX_ATTEMPTS": 1}
        run_until_empty(settings=settings)

        given_up = completed(task)
        self.assertEqual(given_up.attempts, 1)
        self.assertIsNotNone(given_up.failed_at)
        self.assertEqual(given_up.last_error, "Stopped after 0.5 s (MAX_RUN_TIME)")
