import os
import signal

from django.test import SimpleTestCase

from background_task.utils import TTW_FAST, TTW_SLOW, SignalManager


class SignalManagerTests(SimpleTestCase):
    def setUp(self):
        for number in (signal.SIGTSTP, signal.SIGUSR1, signal.SIGUSR2):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_signals_change_the_pace_and_stop(self):
        manager = SignalManager()
        self.assertEqual((manager.kill_now, manager.time_to_wait), (False, [0.0, 0.1]))

        os.kill(os.getpid(), signal.SIGUSR2)
        self.assertEqual(manager.time_to_wait, TTW_SLOW)
        os.kill(os.getpid(), signal.SIGUSR1)
        self.assertEqual(manager.time_to_wait, TTW_FAST)
        os.kill(os.getpid(), signal.SIGTSTP)
        self.assertTrue(manager.kill_now)
