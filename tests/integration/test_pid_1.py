"""`process_tasks` as PID 1, as in a container."""

import signal
import subprocess

import psutil
import pytest

from tests.app import misbehaving

from .tools import LifecycleTestCase, attempted, note, row, supervised, wait_until

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def may_unshare():
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_unshare(), reason="NOT TESTED: unshare is not permitted")
class PidOneTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_it_hears_term_reaps_strangers_and_steals_no_exit_status(self):
        lasting = misbehaving.work(str(self.journal), "lasting", 600)
        exiting = misbehaving.os_exit(7)

        with supervised("--workers", 2, "--drain-timeout", 0, prefix=UNSHARE) as runner:
            self.journal.pid_of("lasting")
            (inner,) = psutil.Process(runner.pid).children()
            exited = attempted(exiting, 1)
            orphan = self.leave_an_orphan_to(inner)
            wait_until(lambda: not psutil.pid_exists(orphan), what="it is reaped")
            zombies = [p for p in inner.children() if p.status() == "zombie"]
            inner.send_signal(signal.SIGTERM)
            status = runner.ended()

        self.assertEqual(status, 0)
        self.assertEqual(zombies, [])
        self.assertEqual((row(lasting).attempts, row(lasting).locked_by), (0, None))
        self.assertIn("exited with code 7", exited.last_error)
        note("os._exit(7) under PID 1", exited)

    def leave_an_orphan_to(self, init):
        """Have a stranger leave a process behind, as `docker exec` may."""
        code = "sleep 600 & exec sleep 600"
        enter = ["nsenter", "--pid", "--mount", "--target", str(init.pid)]
        with subprocess.Popen([*enter, "sh", "-c", code]) as stranger:
            shell = wait_until(psutil.Process(stranger.pid).children)[0]
            (orphan,) = wait_until(shell.children)
            shell.kill()
            stranger.wait()
        wait_until(lambda: orphan.ppid() == init.pid, what="init has adopted it")
        orphan.kill()
        return orphan.pid
