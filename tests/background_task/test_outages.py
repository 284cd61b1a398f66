"""Which errors pass: asked of real ones, as this database raises them."""

import select
import socket
import tempfile
import threading
import unittest
from contextlib import closing
from pathlib import Path

from django.db import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.utils import ConnectionHandler
from django.test import SimpleTestCase, TransactionTestCase

from background_task import waiting, wakeups
from background_task.models import Task
from background_task.outages import is_busy, is_passing

from .tools import make_task

# What these errors are called where they come from; the server is made to raise them.
PASSING = {
    "postgresql": {
        "connection": "08000 08001 08003 08004 08006 08P01",
        "commit of unknown result": "08007 40003",
        "read-only": "25006",
        "ended by the server": "25P03 25P04 57P05",
        "rolled back": "40001 40P01",
        "resources": "53000 53100 53200 53300 53400",
        "locked": "55P03",
        "cancelled": "57014",
        "failing over": "57P01 57P02 57P03",
        "input and output": "58000 58030",
    },
    "mysql": {
        "too many connections": "1040 1203 1226",
        "network": "1158 1159 1160 1161",
        "denied": "1044 1045 1698",
        "failing over": "1047 1053 1079 1927 3032 3168 3169 4031",
        "read-only": "1290 1792 1836 3989",
        "disk full": "3 20 1021 1026 1030 1114 1180",
        "rolled back": "1020 1205 1213 1412 3101 3572",
        "ended by the server": "1317 1969 3024",
    },
}
BUSY = {
    "postgresql": "40001 40P01 55P03 57014",
    "mysql": "1020 1205 1213 1412 1969 3024 3101 3572",
}
STAYING = {
    "postgresql": "0A000 22001 22P05 23502 23505 25P02 3D000 42501 42703 42P01 P0001 "
    "XX000",
    "mysql": "1048 1049 1054 1062 1142 1146 1153 1366 1406 1451 1644",
}
RAISE = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{}'; END $$",
    "mysql": "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {}",
}
ON_SERVERS = unittest.skipIf(connection.vendor == "sqlite", "there is no server")


def another(**settings):
    """Return another connection to the same database, or one that differs."""
    former = connections["default"].settings_dict
    handler = ConnectionHandler({"default": {**former, **settings}})
    return handler["default"]


class Client:
    """What the client library says, of its own: no server can be made to."""

    vendor = "mysql"


class ClientErrorTests(SimpleTestCase):
    """Errnos of MySQL's client library."""

    def test_that_there_is_no_server_or_no_more_passes(self):
        for errno in (2002, 2003, 2006, 2013, 2055):
            with self.subTest(errno):
                self.assertTrue(is_passing(Client, OperationalError(errno, "x")))
                self.assertFalse(is_busy(Client, OperationalError(errno, "x")))

    def test_a_packet_that_is_too_large_stays(self):
        self.assertFalse(is_passing(Client, OperationalError(2020, "x")))

    def test_a_closed_connection_passes(self):
        self.assertTrue(is_passing(Client, InterfaceError(0, "")))
        self.assertTrue(is_passing(Client, InterfaceError("already closed")))


@ON_SERVERS
class StatesTests(TransactionTestCase):
    """Every state that is told apart, as the real server raises it."""

    def raised(self, code):
        with self.assertRaises(Error) as caught, connection.cursor() as cursor:
            cursor.execute(RAISE[connection.vendor].format(code))
        return caught.exception

    def test_what_passes(self):
        busy = BUSY[connection.vendor].split()
        for kind, codes in PASSING[connection.vendor].items():
            for code in codes.split():
                with self.subTest(kind, code=code):
                    error = self.raised(code)
                    self.assertTrue(is_passing(connection, error), error)
                    self.assertIs(is_busy(connection, error), code in busy)

    def test_what_stays_until_it_is_mended(self):
        for code in STAYING[connection.vendor].split():
            with self.subTest(code):
                self.assertFalse(is_passing(connection, self.raised(code)))


class OutageTestCase(TransactionTestCase):
    def error_of(self, connection, *statements):
        """Return what the last of these statements raises."""
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            for statement in statements[:-1]:
                cursor.execute(statement)
            with self.assertRaises(Error) as caught:
                cursor.execute(statements[-1])
        return caught.exception

    def assert_away(self, connection, error):
        self.assertTrue(is_passing(connection, error), repr(error))
        self.assertFalse(is_busy(connection, error), repr(error))


@ON_SERVERS
class ServerAwayTests(OutageTestCase):
    """A server that cannot be reached, or that ends the session."""

    def connecting(self, **settings):
        other = another(**settings)
        waiting.limit(other, 2)
        self.addCleanup(other.close)
        with self.assertRaises(Error) as caught:
            other.ensure_connection()
        return other, caught.exception

    def test_refused(self):
        with socket.socket() as nobody:  # bound, and not listening
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            self.assert_away(*self.connecting(HOST="127.0.0.1", PORT=str(port)))

    def test_accepts_and_never_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            self.assert_away(*self.connecting(HOST="127.0.0.1", PORT=str(port)))

    def test_several_hosts_are_given_up_in_the_time_of_one(self):
        if connection.vendor != "postgresql":
            self.skipTest("only PostgreSQL's client knows of several")
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            ports = ",".join(str(it.getsockname()[1]) for it in (one, other))
            away, error = self.connecting(HOST="127.0.0.1,127.0.0.1", PORT=ports)

        self.assert_away(away, error)
        self.assertEqual(away.settings_dict["OPTIONS"]["connect_timeout"], 1)

    def test_too_many_connections(self):
        limited = {
            "postgresql": [
                "CREATE ROLE limited LOGIN CONNECTION LIMIT 0",
                "DROP ROLE limited",
            ],
            "mysql": [
                "CREATE USER limited@'%' IDENTIFIED BY '' WITH MAX_USER_CONNECTIONS 1",
                "DROP USER limited@'%'",
            ],
        }
        create, drop = limited[connection.vendor]
        with connection.cursor() as cursor:
            cursor.execute(create)
        try:
            where = {"USER": "limited", "PASSWORD": "", "NAME": ""}
            if connection.vendor == "postgresql":
                where["NAME"] = connection.settings_dict["NAME"]
            else:  # the one that it may have
                only = another(**where)
                self.addCleanup(only.close)
                only.ensure_connection()
            self.assert_away(*self.connecting(**where))
        finally:
            with connection.cursor() as cursor:
                cursor.execute(drop)

    def test_ended_by_an_administrator(self):
        other = another()
        self.addCleanup(other.close)
        ends = {
            "postgresql": (
                "SELECT pg_backend_pid()",
                "SELECT pg_terminate_backend({})",
            ),
            "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
        }
        which, end = ends[connection.vendor]
        with other.cursor() as theirs, connection.cursor() as ours:
            theirs.execute(which)
            ours.execute(end.format(theirs.fetchone()[0]))
            with self.assertRaises(Error) as caught:
                while True:  # it takes a moment
                    theirs.execute("SELECT 1")

        self.assert_away(other, caught.exception)

    def test_ended_since_its_transaction_idled(self):
        other = another()
        idle = {
            "postgresql": "SET idle_in_transaction_session_timeout = 1",
            "mysql": "SET SESSION idle_transaction_timeout = 1",
        }
        if connection.vendor == "mysql" and not connection.mysql_is_mariadb:
            self.skipTest("MySQL has no such limit")
        other.set_autocommit(False)
        self.addCleanup(other.close)
        with self.assertRaises(Error) as caught, other.cursor() as cursor:
            cursor.execute(idle[connection.vendor])
            cursor.execute("UPDATE background_task SET priority = 1")
            raw = other.connection  # readable, as soon as the server has hung up
            select.select([raw if hasattr(raw, "fileno") else raw._sock], [], [])
            cursor.execute("SELECT 1")

        self.assert_away(other, caught.exception)


@ON_SERVERS
class ServerFailingTests(OutageTestCase):
    """A server that is there, and can't."""

    def test_read_only(self):
        begin = {
            "postgresql": ["SET default_transaction_read_only = on"],
            "mysql": ["START TRANSACTION READ ONLY"],
        }[connection.vendor]
        other = another()

        error = self.error_of(other, *begin, "UPDATE background_task SET priority = 1")

        self.assert_away(other, error)

    def test_no_room(self):
        if connection.vendor == "postgresql":
            self.skipTest("PostgreSQL's disk can't be filled here: see StatesTests")
        other = another()
        error = self.error_of(
            other,
            "SET SESSION max_heap_table_size = 16384",
            "CREATE TEMPORARY TABLE small (a varchar(1000)) ENGINE = MEMORY",
            "INSERT INTO small WITH RECURSIVE n AS "
            "(SELECT 1 AS i UNION SELECT i + 1 FROM n WHERE i < 1000) "
            "SELECT repeat('x', 1000) FROM n",
        )

        self.assertEqual(error.args[0], 1114)
        self.assert_away(other, error)

    def test_too_slow(self):
        limits = waiting.session_limits(connection, 0.2)
        slow = {
            "postgresql": "SELECT pg_sleep(60)",
            "mysql": "SELECT SLEEP(60)",
        }
        if connection.vendor == "mysql" and not connection.mysql_is_mariadb:
            self.skipTest("MySQL limits no statement")
        other = another()

        error = self.error_of(other, *limits, slow[connection.vendor])

        self.assertTrue(is_passing(other, error), error)

    def test_a_deadlock(self):
        first, second = make_task("first"), make_task("second")
        other, errors = another(), []

        def update(connection, *tasks):
            with connection.cursor() as cursor:
                for task in tasks:
                    cursor.execute(
                        "UPDATE background_task SET priority = priority + 1 "
                        "WHERE id = %s",
                        [task.pk],
                    )

        def theirs():
            try:
                update(other, first)
            except Error as error:
                errors.append((other, error))
            other.rollback()
            other.close()

        other.set_autocommit(False)
        update(other, second)
        connection.set_autocommit(False)
        try:
            update(connection, first)
            thread = threading.Thread(target=theirs)
            other.inc_thread_sharing()
            thread.start()
            try:
                update(connection, second)
            except Error as error:
                errors.append((connection, error))
            connection.rollback()
        finally:
            connection.set_autocommit(True)
        thread.join()

        ((victim, error),) = errors
        self.assertTrue(is_passing(victim, error), error)
        self.assertTrue(is_busy(victim, error), error)


@unittest.skipUnless(connection.vendor == "sqlite", "SQLite's own")
class SQLiteTests(OutageTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="outages-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "database"
        self.here = self.on(self.path)
        with self.here.cursor() as cursor:
            cursor.execute("CREATE TABLE it (a)")

    def on(self, path, **options):
        it = another(NAME=str(path), OPTIONS={"timeout": 0, **options})
        self.addCleanup(it.close)
        return it

    def test_full(self):
        error = self.error_of(
            self.here,
            "PRAGMA max_page_count = 2",
            "INSERT INTO it VALUES (zeroblob(1000000))",
        )

        self.assertEqual(str(error), "database or disk is full")
        self.assert_away(self.here, error)

    def test_read_only(self):
        other = self.on(f"file:{self.path}?mode=ro", uri=True)

        error = self.error_of(other, "INSERT INTO it VALUES (1)")

        self.assertEqual(str(error), "attempt to write a readonly database")
        self.assert_away(other, error)

    def test_locked(self):
        with self.here.cursor() as cursor:
            cursor.execute("BEGIN EXCLUSIVE")

        other = self.on(self.path)
        error = self.error_of(other, "INSERT INTO it VALUES (1)")

        self.assertEqual(str(error), "database is locked")
        self.assert_away(other, error)

    def test_a_folder_that_is_not_there(self):
        nowhere = self.on(self.path.parent / "nowhere" / "database")

        with self.assertRaises(OperationalError) as caught:
            nowhere.ensure_connection()

        self.assert_away(nowhere, caught.exception)

    def test_what_stays_until_it_is_mended(self):
        nonsense = self.path.with_name("nonsense")
        nonsense.write_text("this is no database, and never was\n" * 100)
        for where, statement in (
            (self.here, "SELECT * FROM no_such_table"),
            (self.here, "SELECT no_such_column FROM it"),
            (self.here, "SELECT no_such_function(1)"),
            (self.here, "NOT SQL"),
            (self.on(nonsense), "SELECT * FROM it"),
        ):
            with self.subTest(statement):
                self.assertFalse(is_passing(where, self.error_of(where, statement)))

    def test_another_that_has_it_locked_is_heard(self):
        """And ends nothing: the number can't be looked at meanwhile."""
        listener = wakeups.listener(self.here, [])
        listener.heard()
        with self.on(self.path).cursor() as cursor:
            cursor.execute("BEGIN EXCLUSIVE")

            self.assertTrue(listener.heard())


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
