"""SIGUSR2 has it pause between claims, SIGUSR1 has it pause no more."""

import signal
from datetime import timedelta

from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, supervised, wait_until


class PaceTests(LifecycleTestCase):
    def test_claims_are_at_least_half_a_second_apart_while_it_pauses(self):
        with supervised("--sleep", 0.1) as runner:
            wait_until(runner.is_up)
            runner.signal(signal.SIGUSR2)
            runner.says("SIGUSR2: pausing between claims")
            tasks = [misbehaving.work(str(self.journal), str(n)) for n in range(3)]
            moments = sorted(completed(task).locked_at for task in tasks)
            runner.signal(signal.SIGUSR1)
            runner.says("SIGUSR1: no pause between claims")
            completed(misbehaving.work(str(self.journal), "quick"))
            runner.signal(signal.SIGTERM)
            self.assertEqual(runner.ended(), 0)

        first, second, third = moments
        half_a_second = timedelta(seconds=0.5)
        self.assertGreaterEqual(second - first, half_a_second)
        self.assertGreaterEqual(third - second, half_a_second)
