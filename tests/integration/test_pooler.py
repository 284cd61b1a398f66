"""Behind a pooler in transaction mode tasks run, and others find nothing of ours.

Here it is PgBouncer with one server session for all its clients, or with two.
"""

import unittest

import pytest
from django.db import connection, connections, transaction

from background_task import claims, waiting
from tests.app import misbehaving
from tests.databases import PGBOUNCER, PgBouncer

from .tools import (
    LifecycleTestCase,
    completed,
    effective_databases,
    run_until_empty,
    supervised,
    wait_until,
)

NAMES = ("statement_timeout", "lock_timeout", "enable_sort", "enable_seqscan", "jit")


@pytest.mark.postgresql
@unittest.skipUnless(PGBOUNCER, "NOT TESTED: there is no pgbouncer")
class PoolerTests(LifecycleTestCase):
    def pooler(self, size):
        """Have a pooler; return where `process_tasks` finds its databases then."""
        server = connection.settings_dict
        pooler = self.enterContext(PgBouncer(str(self.folder), server, size))
        databases = effective_databases()
        databases["default"] |= pooler.where
        return databases

    def connected(self, databases, alias="pooled"):
        """Return a connection of Django's to there."""
        it = connections[alias] = connection.copy(alias)
        it.settings_dict = connection.settings_dict | databases["default"]
        self.addCleanup(connections.__delitem__, alias)
        self.addCleanup(it.close)
        return it

    def shown(self, it):
        """Return the settings that this connection's next statement runs with."""
        with it.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(map(_current, NAMES))}")
            return cursor.fetchone()

    def test_others_find_no_setting_of_ours(self):
        databases = self.pooler(size=1)
        other = self.connected(databases)
        before = self.shown(other)

        task = misbehaving.work(str(self.journal), "pooled")
        run_until_empty(databases=databases)

        completed(task)
        self.assertEqual(self.shown(other), before)

    def test_the_settings_hold_in_a_transaction_and_out_of_one(self):
        databases = self.pooler(size=1)
        ours, other = self.connected(databases), self.connected(databases, "other")
        ours.ensure_connection()
        waiting.impose(ours, 9.0, claims.SESSION["postgresql"])
        wanted = ("9s", "2s", "off", "off", "off")

        self.assertEqual(self.shown(ours), wanted)
        with transaction.atomic(using="pooled"):
            self.assertEqual(self.shown(ours), wanted)
            with transaction.atomic(using="pooled"):
                self.assertEqual(self.shown(ours), wanted)
        self.assertNotEqual(self.shown(other), wanted)

    def test_who_has_no_session_to_listen_in_says_so_once(self):
        databases = self.pooler(size=2)
        other = self.connected(databases)

        def has_said():
            """Take the session that the bookkeeper had last, and have it work."""
            with transaction.atomic(using="pooled"):
                self.shown(other)
                completed(misbehaving.work(str(self.journal), "meanwhile"))
            return text in runner.output

        text = "in transaction mode, where NOTIFY is not heard"
        with supervised("--sleep", 0.5, databases=databases) as runner:
            wait_until(runner.is_up)
            wait_until(has_said)
            has_said()
            times = runner.output.count(text)

        self.assertEqual(times, 1)

    def test_a_direct_connection_is_set_once(self):
        it = self.connected({"default": {}})
        it.ensure_connection()

        waiting.impose(it, 9.0)

        self.assertEqual(it.execute_wrappers, [])
        self.assertEqual(self.shown(it)[0], "9s")


def _current(name):
    return f"current_setting('{name}')"
