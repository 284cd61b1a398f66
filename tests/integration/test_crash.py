"""A task whose process is gone without a word, or that cannot begin."""

import os
import signal

import pytest

from background_task.models import Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    note,
    put,
    row,
    run_until_empty,
    save,
    stop,
    supervised,
    wait_until,
)


class CrashTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_every_crash_says_what_happened_and_costs_an_attempt(self):
        not_json = put("work")
        Task.objects.filter(pk=not_json.pk).update(task_params="{not json")
        no_arguments = put("work", "too few")
        crashes = {
            "SIGSEGV": (misbehaving.segfault(), "killed by SIGSEGV"),
            "os._exit(7)": (misbehaving.os_exit(7), "exited with code 7 without"),
            "os._exit(0)": (misbehaving.os_exit(0), "exited with code 0 without"),
            "not JSON": (not_json, "not JSON of [arguments, keyword arguments]"),
            "missing argument": (no_arguments, "missing 1 required positional"),
        }
        killed = misbehaving.work(str(self.journal), "killed", 600)

        with supervised("--workers", 3) as runner:
            os.kill(self.journal.pid_of("killed"), signal.SIGKILL)
            attempted(killed, 1)
            for how, (task, text) in crashes.items():
                with self.subTest(how):
                    tried = attempted(task, 1)
                    self.assertIn(text, tried.last_error)
                    self.assertEqual((tried.attempts, tried.locked_by), (1, None))
                    note(how, tried)
            status = stop(runner)

        self.assertIn(
            "killed by SIGKILL, not by its supervisor", row(killed).last_error
        )
        self.assertIn("out of memory", row(killed).last_error)
        note("SIGKILL from outside", row(killed))
        self.assertEqual(status, 0)

    def test_a_task_that_vanished_from_the_code_fails(self):
        flag = self.folder / "flag"
        flag.touch()

        how = {"environment": {"TEST_VANISHING_TASK": str(flag)}}
        with supervised("--start-method", "spawn", **how) as runner:
            first = put("vanish")
            wait_until(lambda: row(first) is None, what="it is done while it is known")
            flag.unlink()
            vanished = put("vanish", "another")
            attempted(vanished, 1)
            stop(runner)

        self.assertIn(
            "No function is registered as 'tests.app.misbehaving.vanish' in this "
            "process",
            row(vanished).last_error,
        )
        note("the name vanished from the code", row(vanished))

    def test_names_that_nobody_knows_are_left_alone(self):
        unknown = save(Task.objects.new_task("somebody.elses.task"))

        run_until_empty()

        self.assertEqual((row(unknown).attempts, row(unknown).locked_by), (0, None))
