"""SIGUSR2 has it pause between claims, SIGUSR1 has it pause no more."""

import signal

from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, supervised, wait_until


class PaceTests(LifecycleTestCase):
    def moments(self):
        return [at for event, _, at, _ in self.journal.entries() if event == "begin"]

    def test_claims_are_at_least_half_a_second_apart_while_it_pauses(self):
        with supervised("--sleep", 0.1) as runner:
            wait_until(runner.is_up)
            runner.signal(signal.SIGUSR2)
            runner.says("SIGUSR2: pausing between claims")
            tasks = [misbehaving.work(str(self.journal), str(n)) for n in range(3)]
            for task in tasks:
                completed(task)
            first, second, third = self.moments()
            runner.signal(signal.SIGUSR1)
            runner.says("SIGUSR1: no pause between claims")
            completed(misbehaving.work(str(self.journal), "quick"))
            runner.signal(signal.SIGTERM)
            self.assertEqual(runner.ended(), 0)

        self.assertGreaterEqual(second - first, 0.5)
        self.assertGreaterEqual(third - second, 0.5)
