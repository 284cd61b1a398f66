"""Wake-ups may be missed, which delays a task, and may storm, which costs little."""

import time

import pytest
from django.test import override_settings

from background_task.models import Runner
from background_task.wakeups import notify
from tests.app import misbehaving

from .tools import EVERYTHING, LifecycleTestCase, completed, supervised, wait_until

LOOKS_A_SECOND = 50
LEASE = 6  # seconds; it is renewed at each third of it
UNTIL_IT_LOOKS_SELDOM = 10  # looks, each 1.5 times as long after the last as that


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

    @pytest.mark.postgresql
    def test_one_in_vain_makes_one_look(self):
        """As of a task that another runner has; what it finds itself has it look on."""
        settings = {"LOGGING": EVERYTHING, "BACKGROUND_TASK_LEASE": LEASE}
        with supervised("--sleep", 60, settings=settings) as runner:
            wait_until(lambda: looks_of(runner) >= UNTIL_IT_LOOKS_SELDOM)
            before = looks_of(runner)
            notify(None, None)
            wait_until(lambda: looks_of(runner) > before)
            wait_for_renewals(2)
            after = looks_of(runner)

        self.assertLessEqual(after - before, 2)  # that, and one that was due


def looks_of(runner):
    return runner.output.count("Waiting for tasks")


def wait_for_renewals(n):
    """Wait until the one runner has renewed its lease so many times more."""
    for _ in range(n):
        former = Runner.objects.get().trusted_until
        wait_until(lambda former=former: Runner.objects.get().trusted_until != former)
