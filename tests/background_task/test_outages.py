"""Which errors pass: asked of real ones, as this database raises them."""

import threading
from contextlib import closing

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.test import SimpleTestCase, TransactionTestCase

from background_task.models import Task
from background_task.outages import is_busy, is_passing

from .tools import make_task


class MySQL:
    vendor = "mysql"


class ErrnoTests(SimpleTestCase):
    """MySQL's and MariaDB's drivers call almost everything an OperationalError."""

    def test_what_waiting_can_cure(self):
        for errno in (1040, 1045, 1053, 1205, 1213, 1290, 1927, 2002, 2006, 2013):
            with self.subTest(errno):
                self.assertTrue(is_passing(MySQL, OperationalError(errno, "x")))

    def test_what_stays_until_it_is_mended(self):
        for errno in (1049, 1054, 1146, 1153, 1366, 1406, 1644, 2020):
            with self.subTest(errno):
                self.assertFalse(is_passing(MySQL, OperationalError(errno, "x")))

    def test_only_what_one_row_is_waited_for_is_busy(self):
        for errno, busy in ((1205, True), (1213, True), (2013, False), (1040, False)):
            with self.subTest(errno):
                self.assertIs(is_busy(MySQL, OperationalError(errno, "x")), busy)


class RealErrorTests(TransactionTestCase):
    def error_of(self, statement, kind=DatabaseError):
        with (
            self.assertRaises(kind) as caught,
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
        return caught.exception

    def test_mistakes_stay(self):
        for statement in (
            "SELECT no_such_column FROM background_task",
            "SELECT 1 FROM no_such_table",
        ):
            with self.subTest(statement):
                error = self.error_of(statement)
                self.assertIsInstance(error, (OperationalError, ProgrammingError))
                self.assertFalse(is_passing(connection, error))
                self.assertFalse(is_busy(connection, error))

    def test_a_value_that_is_refused_stays(self):
        error = self.error_of(
            "INSERT INTO background_task (task_name) VALUES (NULL)",
            (IntegrityError, DataError, OperationalError),
        )

        self.assertFalse(is_passing(connection, error))

    def test_a_row_that_another_has_locked_passes(self):
        if not connection.features.has_select_for_update:
            self.skipTest("one lock for the whole database")
        make_task("job")
        locked, done = threading.Event(), threading.Event()

        def hold():
            with closing(connections["default"]), transaction.atomic():
                Task.objects.select_for_update().get()
                locked.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(done.set)
        locked.wait()
        short = {
            "postgresql": "SET LOCAL lock_timeout = 100",
            "mysql": "SET SESSION innodb_lock_wait_timeout = 1",
        }
        self.addCleanup(connection.close)

        with (
            self.assertRaises(OperationalError) as caught,
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(short[connection.vendor])
            Task.objects.update(priority=1)

        self.assertTrue(is_passing(connection, caught.exception))
        self.assertTrue(is_busy(connection, caught.exception))
