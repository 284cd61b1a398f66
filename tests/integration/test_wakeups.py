"""A notification that is missed, or never sent, delays a task and loses none."""

import pytest
from django.test import override_settings

from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, supervised, wait_until


@pytest.mark.lifecycle
class WakeupTests(LifecycleTestCase):
    @override_settings(BACKGROUND_TASK_NOTIFY=False)
    def test_what_nobody_tells_of_is_found(self):
        with supervised("--sleep", 0.5) as runner:
            wait_until(runner.is_up)
            for number in range(2):  # the second when it is idle again
                completed(misbehaving.work(str(self.journal), f"quiet {number}"))
