"""A process that runs several tasks: what of Django they share, and what not."""

import json

import psutil
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection

from background_task.models import CompletedTask, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    run_until_empty,
    stop,
    supervised,
    title_of,
    wait_until,
)


class ReuseTests(LifecycleTestCase):
    def states(self):
        """Return what tasks told of themselves, in order: pid and state."""
        entries = self.journal.entries()
        return [
            (pid, json.loads(told)) for kind, pid, _, told in entries if kind == "state"
        ]

    @pytest.mark.lifecycle
    def test_tasks_share_a_process_and_its_connection_and_nothing_of_each_other(self):
        for number in range(5):
            misbehaving.tell_state(str(self.journal), f"task {number}")

        output = run_until_empty(
            "--workers", 1, "--tasks-per-process", 3, settings={"DEBUG": True}
        )

        self.assertIn("; 3 tasks per process; ", output)
        self.assertEqual(CompletedTask.objects.succeeded().count(), 5)
        pids, states = zip(*self.states(), strict=True)
        self.assertEqual([pids.count(pid) for pid in dict.fromkeys(pids)], [3, 2])
        sessions = {(pid, state.pop("session")) for pid, state in self.states()}
        self.assertEqual(len(sessions), 2, "one connection for each process")
        for state in states:
            # MySQL's begin with one; the task makes two after it has looked.
            self.assertLess(state.pop("queries"), 2)
            del state["session"]
            self.assertEqual(state, states[0])

    @pytest.mark.lifecycle
    def test_what_a_task_leaves_of_djangos_state_is_reset(self):
        for what in ("atomic", "autocommit", "begin"):
            with self.subTest(what):
                self.journal.clear()
                misbehaving.tell_state(str(self.journal), "before")
                misbehaving.leave_state(str(self.journal), "leaves", what)
                misbehaving.tell_state(str(self.journal), "after")

                run_until_empty("--workers", 1, "--tasks-per-process", 3)

                (one, before), (two, left), (three, after) = self.states()
                self.assertEqual((one, one), (two, three))
                kept = left["session"] == after.pop("session")
                self.assertEqual(kept, what == "begin")
                self.assertEqual(left["session"], before.pop("session"))
                del before["queries"], after["queries"]
                self.assertEqual(after, before)
                self.assertEqual(User.objects.count(), 0, "it was rolled back")

    def test_a_task_that_failed_leaves_no_transaction_open(self):
        task = misbehaving.leave_state(str(self.journal), "fails", "atomic")
        with supervised("--workers", 1, "--tasks-per-process", 3) as runner:
            failed = attempted(task, 1)
            misbehaving.tell_state(str(self.journal), "after")
            wait_until(lambda: len(self.states()) == 2, what="the second task")
            self.assertEqual(stop(runner), 0)

        self.assertIn("ValueError: fails", failed.last_error)
        (one, _), (two, after) = self.states()
        self.assertEqual((one, after["atomic"], after["users"]), (two, False, 0))

    def test_connections_are_kept_for_as_long_as_the_project_says(self):
        for number in range(2):
            misbehaving.tell_state(str(self.journal), f"task {number}")
        databases = json.loads(json.dumps(settings.DATABASES, default=str))
        for database in databases.values():
            database["CONN_MAX_AGE"] = 1e-9

        run_until_empty(
            "--workers", 1, "--tasks-per-process", 2, settings={"DATABASES": databases}
        )

        (one, first), (two, second) = self.states()
        self.assertEqual(one, two)
        self.assertNotEqual(first["session"], second["session"])

    @pytest.mark.postgresql
    def test_a_connection_that_was_lost_between_two_tasks_is_replaced(self):
        with supervised("--workers", 1, "--tasks-per-process", 3) as runner:
            completed(misbehaving.tell_state(str(self.journal), "before"))
            (pid, before) = self.states()[0]
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", [before["session"]])
            wait_until(lambda: not self.session_is_there(before["session"]))

            done = completed(misbehaving.tell_state(str(self.journal), "after"))
            self.assertEqual(stop(runner), 0)

        self.assertEqual((done.attempts, done.failed_at), (1, None))
        (_, _), (again, after) = self.states()
        self.assertEqual(pid, again)
        self.assertNotEqual(before["session"], after["session"])

    def session_is_there(self, session):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [session])
            return cursor.fetchone() is not None

    @pytest.mark.postgresql
    def test_an_idle_process_that_is_told_to_leave_closes_its_connection(self):
        with supervised("--workers", 1, "--tasks-per-process", 3) as runner:
            completed(misbehaving.tell_state(str(self.journal), "before"))
            (pid, before) = self.states()[0]
            wait_until(lambda: title_of(psutil.Process(pid)) == "background_task: idle")
            self.assertTrue(self.session_is_there(before["session"]))

            self.assertEqual(stop(runner), 0)

        wait_until(lambda: not self.session_is_there(before["session"]))
        self.assertEqual(Task.objects.count(), 0)
