"""Wake-ups may be missed, which delays a task, and may storm, which costs little."""

import time

import pytest
from django.test import override_settings

from background_task.wakeups import notify
from tests.app import misbehaving

from .tools import EVERYTHING, LifecycleTestCase, completed, supervised, wait_until

LOOKS_A_SECOND = 50


class WakeupTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    @override_settings(BACKGROUND_TASK_NOTIFY=False)
    def test_what_nobody_tells_of_is_found(self):
        with supervised("--sleep", 0.5) as runner:
            wait_until(runner.is_up)
            for number in range(2):  # the second when it is idle again
                completed(misbehaving.work(str(self.journal), f"quiet {number}"))

    @pytest.mark.postgresql
    def test_a_storm_of_them_makes_few_looks(self):
        with supervised("--sleep", 60, settings={"LOGGING": EVERYTHING}) as runner:
            runner.says("Waiting for tasks")
            began = time.monotonic()
            for _ in range(5000):
                notify(None, None)
            completed(misbehaving.work(str(self.journal), "after it"))
            most = (time.monotonic() - began) * LOOKS_A_SECOND + 10
            looks = runner.output.count("Waiting for tasks")

        self.assertLess(looks, most)
