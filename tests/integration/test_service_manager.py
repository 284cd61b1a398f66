"""`process_tasks` as a unit of systemd: Type=notify."""

import json
import signal

import pytest

from tests.app import misbehaving
from tests.supervisor.tools import Manager

from .tools import (
    LifecycleTestCase,
    completed,
    effective_databases,
    refused,
    supervised,
)

OURS = {"NOTIFY_SOCKET", "WATCHDOG_USEC"}


class ServiceManagerTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.manager = Manager(str(self.folder / "notify"))
        self.addCleanup(self.manager.socket.close)
        self.environment = {
            "NOTIFY_SOCKET": self.manager.address,
            "WATCHDOG_USEC": "400000",
        }

    @pytest.mark.lifecycle
    def test_it_is_told_of_a_runners_life(self):
        go_on = self.folder / "go on"
        with supervised("--workers", 2, environment=self.environment) as runner:
            self.manager.wait_for("READY=1")
            self.manager.wait_for("STATUS=0 of 2 workers busy, 0 tasks held")
            task = misbehaving.wait_for(str(self.journal), "running", str(go_on))
            self.manager.wait_for("STATUS=1 of 2 workers busy, 1 tasks held")
            self.manager.wait_for("WATCHDOG=1")
            self.assertNotIn("STOPPING=1", self.manager.lines())
            runner.signal(signal.SIGTERM)
            self.manager.wait_for("STOPPING=1")
            go_on.touch()

            self.assertEqual(runner.ended(), 0)
        self.assertTrue(completed(task))

    def test_a_task_cannot_speak_for_the_service(self):
        for method in ("template", "spawn"):
            label = f"of {method}"
            task = misbehaving.tell_environment(str(self.journal), label)
            options = ("--start-method", method, "--until-empty")
            with supervised(*options, environment=self.environment) as runner:
                self.assertEqual(runner.ended(), 0)
                self.assertTrue(completed(task))

        told = [
            text for event, *_, text in self.journal.entries() if event[:3] == "env"
        ]
        self.assertEqual(len(told), 2)
        for environment in map(json.loads, told):
            self.assertEqual(OURS & set(environment), set())

    def test_no_process_of_it_but_the_first_has_what_is_the_first_ones(self):
        misbehaving.work(str(self.journal), "running", 600)
        options = ("--workers", 1, "--drain-timeout", 0)
        with supervised(*options, environment=self.environment) as runner:
            self.journal.pid_of("running")
            found = {p.pid: OURS & set(p.environ()) for p in runner.processes()}
            del found[runner.pid]
            runner.signal(signal.SIGTERM)
            self.assertEqual(runner.ended(), 0)

        self.assertGreaterEqual(len(found), 3)
        self.assertEqual(set().union(*found.values()), set())

    def test_a_start_that_fails_is_no_start(self):
        databases = effective_databases()
        databases["default"]["NAME"] = str(self.folder / "empty.sqlite3")

        refused(databases=databases, environment=self.environment)

        self.assertNotIn("READY=1", self.manager.lines())
