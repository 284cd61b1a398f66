"""`process_tasks` as PID 1, as in a container."""

import signal
import subprocess
import sys

import psutil
import pytest
from django.conf import settings

from tests.app import misbehaving
from tests.test_deploy import container

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    note,
    row,
    supervised,
    wait_until,
)

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
OUTER_PROC = ("unshare", "--pid", "--fork", "--kill-child")

# It takes its time: in AppConfig.ready, or in a system check, which comes later.
SLOW_APP = """
import os, sys, time
from django.apps import AppConfig
from django.core import checks

def wait(**kwargs):
    open({pid!r}, "w").close()
    while not os.path.exists({gate!r}):
        time.sleep(0.02)
    return []

class SlowConfig(AppConfig):
    name = "slow_app"

    def ready(self):
        if {when!r} == "ready":
            wait()
        else:
            checks.register(wait)
"""


def may_unshare():
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class BeginningTestCase(LifecycleTestCase):
    def stop_while_it_begins(self, when, prefix=()):
        """Have it told to stop while it begins; return its exit status."""
        task = misbehaving.work(str(self.journal), "untouched")
        gate, pid = self.folder / "gate", self.folder / "pid"
        app = self.folder / "slow_app"
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "apps.py").write_text(
            SLOW_APP.format(when=when, pid=str(pid), gate=str(gate))
        )
        apps = [*settings.INSTALLED_APPS, "slow_app"]
        environment = {"PYTHONPATH": str(self.folder)}
        how = {"settings": {"INSTALLED_APPS": apps}, "environment": environment}

        with supervised(prefix=prefix, **how) as runner:
            wait_until(pid.exists)
            inner = psutil.Process(runner.pid)
            if prefix:
                (inner,) = inner.children()
            inner.send_signal(signal.SIGTERM)
            gate.touch()
            status = runner.ended()

        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
        self.assertEqual(self.journal.begun(), [])
        return status


class BeginningTests(BeginningTestCase):
    def test_a_term_while_django_is_set_up_ends_the_process(self):
        self.assertEqual(self.stop_while_it_begins("ready"), -signal.SIGTERM)

    def test_a_term_while_the_command_begins_is_heeded(self):
        self.assertEqual(self.stop_while_it_begins("a check"), 0)


@pytest.mark.skipif(not may_unshare(), reason="NOT TESTED: unshare is not permitted")
class PidOneTests(BeginningTestCase):
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

    def test_with_the_proc_of_another_namespace_it_does_the_same(self):
        """As under `unshare --pid --fork` alone: limits, sweeps and ends are right."""
        leaving = misbehaving.leave_behind(str(self.journal), "leaving")
        holding = misbehaving.hold_memory(150)
        lasting = misbehaving.work(str(self.journal), "lasting", 600)

        options = ("--workers", 2, "--drain-timeout", 0, "--memory-limit", "100M")
        with supervised(*options, prefix=OUTER_PROC) as runner:
            self.journal.pid_of("lasting")
            held = attempted(holding, 1)
            completed(leaving)
            (inner,) = psutil.Process(runner.pid).children()
            inner.send_signal(signal.SIGTERM)
            status = runner.ended()
            output = runner.output

        self.assertEqual(status, 0)
        self.assertNotIn("still there after", output)
        self.assertIn("over the limit of 100 MiB", held.last_error)
        self.assertEqual((row(lasting).attempts, row(lasting).locked_by), (0, None))

    def test_a_term_while_the_command_begins_is_not_lost(self):
        """To PID 1 a signal that has no handler is none: the kernel drops it."""
        self.assertEqual(0, self.stop_while_it_begins("a check", UNSHARE))

    def test_a_term_while_django_is_set_up_is_not_lost_if_it_was_blocked(self):
        """As in the Dockerfile, by `env --block-signal`."""
        prefix = (*UNSHARE, "env", "--block-signal=TERM")
        self.assertEqual(0, self.stop_while_it_begins("ready", prefix))

    def test_the_startup_probe_of_the_documentation_sees_it(self):
        beat = str(self.folder / "beat")
        *python, path = container()["startupProbe"]["exec"]["command"]
        self.assertEqual((python[0], path), ("python", "/dev/shm/background-task"))
        probe = [sys.executable, *python[1:], beat]
        with supervised("--heartbeat-file", beat, prefix=UNSHARE) as runner:
            (inner,) = wait_until(psutil.Process(runner.pid).children)
            enter = ["nsenter", "--pid", "--mount", "--target", str(inner.pid)]
            before = subprocess.run([*enter, *probe]).returncode
            wait_until(lambda: subprocess.run([*enter, *probe]).returncode == 0)
            inner.send_signal(signal.SIGTERM)

            self.assertEqual(runner.ended(), 0)
        self.assertEqual(before, 1)

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
