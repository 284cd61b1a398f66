"""Outages of every kind, from the first word of the log to the last of the books."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
import unittest
from collections import Counter

import pytest
from django.core.management import call_command
from django.db import connection, connections

from background_task.models import Attempt, CompletedTask, Runner, Task
from tests.app import misbehaving
from tests.chaos.proxy import Proxy, upstream
from tests.chaos.world import default_database
from tests.databases import MariaDB, settings_from_url

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    effective_databases,
    is_alive,
    row,
    stop,
    supervised,
    wait_until,
)

NAME = "tests.app.misbehaving"
_CLONE_NEWNS = 0x20000
AWAY, BACK = "ERROR The queue is unavailable", "WARNING The queue is available again"
REPLACED = "it is replaced"
ON_SERVERS = unittest.skipIf(connection.vendor == "sqlite", "there is no server")

# Nothing can be written about a task, while the lease of the runner can be renewed.
REFUSE = {
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN "
        "RAISE EXCEPTION 'no' USING ERRCODE = '{}'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON background_task "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
    "mysql": [
        "CREATE TRIGGER refuse BEFORE UPDATE ON background_task FOR EACH ROW "
        "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = 'no'",
        "CREATE TRIGGER refuse_too BEFORE DELETE ON background_task FOR EACH ROW "
        "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = 'no'",
    ],
}
ALLOW = {
    "postgresql": ["DROP FUNCTION IF EXISTS refuse() CASCADE"],
    "mysql": ["DROP TRIGGER IF EXISTS refuse", "DROP TRIGGER IF EXISTS refuse_too"],
}
DISK_FULL = {"postgresql": "53100", "mysql": "1114"}
READ_ONLY = {"postgresql": "25006", "mysql": "1290"}


def execute(*statements):
    with connections["default"].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


class OutageTestCase(LifecycleTestCase):
    def survive(self, leave, come_back, *, most_replaced=0, lease=30, limit=5, **how):
        """Have limits act, and tasks end, while the database is away.

        Returns the output of the runner, which said each thing once.
        """
        go_on = self.folder / "go on"
        finishing = misbehaving.wait_for(str(self.journal), "finishing", str(go_on))
        overrunning = misbehaving.work(str(self.journal), "overrunning", 600)
        waiting = [misbehaving.work(str(self.journal), f"waits {n}") for n in range(3)]
        overrides = {f"{NAME}.work": {"max_run_time": limit}}
        settings = {"BACKGROUND_TASK_OVERRIDES": overrides}
        settings["BACKGROUND_TASK_LEASE"] = lease
        options = ("--workers", 2, "--sleep", 1)
        with supervised(*options, settings=settings, **how) as runner:
            pids = [self.journal.pid_of(one) for one in ("finishing", "overrunning")]
            leave()
            began_away = list(map(is_alive, pids))
            go_on.touch()
            wait_until(lambda: not any(map(is_alive, pids)), what="both have ended")
            runner.says(AWAY)
            begun_meanwhile = len(self.journal.begun())
            come_back()
            runner.says(BACK)
            stopped = attempted(overrunning, 1)
            done = [completed(task) for task in (finishing, *waiting)]
            Task.objects.filter(pk=overrunning.pk).delete()
            status = stop(runner)
            output = runner.output

        self.assertEqual(began_away, [True, True])
        self.assertEqual(begun_meanwhile, 2)
        self.assertIn(f"Stopped after {limit} s", stopped.last_error)
        self.assertEqual((stopped.attempts, stopped.locked_by), (1, None))
        self.assertEqual(
            [(one.attempts, one.failed_at) for one in done], [(1, None)] * 4
        )
        self.assertEqual(set(Counter(self.journal.begun()).values()), {1})
        self.assert_in_the_books_once(tries=5)
        self.assertEqual((output.count(AWAY), output.count(BACK)), (1, 1), output)
        self.assertLessEqual(output.count(REPLACED), most_replaced, output)
        self.assertEqual(status, 0)
        return output

    def assert_in_the_books_once(self, tries):
        hashes = Counter(CompletedTask.objects.values_list("task_hash", flat=True))
        self.assertEqual(set(hashes.values()), {1})
        attempts = Counter(Attempt.objects.values_list("task_id", "number"))
        self.assertEqual(set(attempts.values()), {1})
        self.assertEqual(len(attempts), tries)
        self.assertEqual(Runner.objects.count(), 0)


@ON_SERVERS
@pytest.mark.lifecycle
class RefusingTests(OutageTestCase):
    """A server that is there, and can't write; every error is raised by it."""

    def setUp(self):
        super().setUp()
        self.addCleanup(self.allow)

    def refuse(self, code):
        execute(*(text.format(code) for text in REFUSE[connection.vendor]))

    def allow(self):
        execute(*ALLOW[connection.vendor])

    def test_a_full_disk_that_has_room_again(self):
        code = DISK_FULL[connection.vendor]

        self.survive(lambda: self.refuse(code), self.allow)

    def test_a_server_that_is_read_only_for_a_while(self):
        code = READ_ONLY[connection.vendor]

        self.survive(lambda: self.refuse(code), self.allow)


@pytest.mark.postgresql
class ReplicaTests(OutageTestCase):
    """A server that lets sessions begin read-only, and keeps them so."""

    def test_a_session_that_began_read_only_is_not_kept(self):
        name = connection.ops.quote_name(connection.settings_dict["NAME"])

        def leave():
            execute(
                f"ALTER DATABASE {name} SET default_transaction_read_only = on",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )

        def come_back():
            execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

        self.addCleanup(come_back)
        output = self.survive(leave, come_back)

        self.assertRegex(output, f"{AWAY}: .*(read-only|terminat)")


@unittest.skipUnless(connection.vendor == "mysql", "MariaDB's own")
@pytest.mark.lifecycle
class MariaDBTests(OutageTestCase):
    """A server of one's own, as a failover leaves it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.mkdtemp(prefix="mariadb-")
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        try:
            cls.server = MariaDB(folder)
        except FileNotFoundError as error:
            raise unittest.SkipTest(f"No server can be had: {error}") from error
        cls.addClassCleanup(cls.server.stop)
        settings = settings_from_url(cls.server.url)
        cls.enterClassContext(default_database(settings))
        call_command("migrate", run_syncdb=True, verbosity=0)

    def test_read_only_for_a_while(self):
        def set_to(value):
            self.server.execute(f"SET GLOBAL read_only = {value}")

        self.addCleanup(set_to, 0)
        output = self.survive(lambda: set_to(1), lambda: set_to(0))

        self.assertRegex(output, f"{AWAY}: .*1290")

    def test_stopped_for_a_while(self):
        def leave():
            connections["default"].close()
            self.server.stop()

        output = self.survive(leave, self.server.start, limit=12)

        self.assertRegex(output, f"{AWAY}: .*(2003|2006|2013|1053|1927)")


@ON_SERVERS
@pytest.mark.lifecycle
class ProxyTests(OutageTestCase):
    """A network in between, which does what networks do."""

    def setUp(self):
        super().setUp()
        self.proxy = Proxy(upstream(connection.settings_dict))
        self.addCleanup(self.proxy.close)
        databases = effective_databases()
        databases["default"] |= {"HOST": "127.0.0.1", "PORT": str(self.proxy.port)}
        self.through_proxy = {"databases": databases}

    def test_refused(self):
        def leave():
            self.proxy.refuses = True
            self.proxy.cut()

        self.survive(leave, self.proxy.calm, **self.through_proxy)

    def test_accepts_and_never_answers(self):
        """The bookkeeper that hangs is replaced once, if nothing else bounds it."""

        def leave():
            self.proxy.blackholes = True

        self.survive(leave, self.proxy.calm, most_replaced=1, **self.through_proxy)

    def test_hangs_for_longer_than_a_short_lease_lasts(self):
        """Nobody overstays the lease, and no bookkeeper after the first is replaced."""
        task = misbehaving.beat(str(self.journal), "stopped", 12_000)
        settings = {"BACKGROUND_TASK_LEASE": 8}
        with supervised(settings=settings, **self.through_proxy) as runner:
            pid = self.journal.pid_of("stopped")
            self.proxy.blackholes = True
            wait_until(lambda: not is_alive(pid), what="it is stopped")
            with supervised("--workers", 1, settings=settings) as neighbour:
                runner.says(AWAY)
                self.proxy.calm()
                runner.says(BACK)
                wait_until(neighbour.is_up, what="the neighbour")
                statuses = [stop(runner), stop(neighbour)]
            output = runner.output

        self.assertEqual(self.journal.overlaps(), [])
        self.assertEqual(row(task).attempts, 0)
        self.assertEqual((output.count(AWAY), output.count(BACK)), (1, 1), output)
        self.assertLessEqual(output.count(REPLACED), 1, output)
        self.assertEqual(statuses, [0, 0])

    def trusted(self):
        return sum(runner.is_trusted() for runner in Runner.objects.all())

    def test_neighbours_whose_leases_ran_out_in_an_outage_leave_one_another_alone(self):
        """Their leases have run out in an outage: that makes none of them dead."""
        settings = {"BACKGROUND_TASK_LEASE": 6}
        running = {"settings": settings, **self.through_proxy}
        with contextlib.ExitStack() as stack:
            runners = [stack.enter_context(supervised(**running)) for _ in range(3)]
            wait_until(lambda: self.trusted() == 3, what="all are up")
            self.proxy.refuses = True
            self.proxy.cut()
            wait_until(lambda: not self.trusted(), what="all leases have run out")
            self.proxy.calm()
            for runner in runners:
                runner.says(BACK)
            wait_until(lambda: self.trusted() == 3, what="all are trusted again")
            completed(misbehaving.work(str(self.journal), "after"))
            statuses = [stop(runner) for runner in runners]

        self.assertEqual(statuses, [0, 0, 0])

    def commit_in_doubt(self, kind, **settings):
        go_on = self.folder / "go on"
        tasks = [
            misbehaving.wait_for(str(self.journal), label, str(go_on))
            for label in ("one", "two")
        ]
        settings = {"settings": settings, **self.through_proxy}
        with supervised("--workers", 2, **settings) as runner:
            pids = list(map(self.journal.pid_of, ("one", "two")))
            setattr(self.proxy, kind, True)
            go_on.touch()
            runner.says(AWAY)
            setattr(self.proxy, kind, False)
            runner.says(BACK)
            done = list(map(completed, tasks))
            after = completed(misbehaving.work(str(self.journal), "after"))
            status = stop(runner)
            output = runner.output

        self.assertEqual([one.attempts for one in (*done, after)], [1, 1, 1])
        self.assertEqual(set(Counter(self.journal.begun()).values()), {1})
        self.assertFalse(any(map(is_alive, pids)))
        self.assert_in_the_books_once(tries=3)
        self.assertEqual((output.count(AWAY), output.count(BACK)), (1, 1), output)
        self.assertNotIn(REPLACED, output)
        self.assertEqual(status, 0)
        return output

    def test_a_commit_that_was_made_and_not_answered_is_not_made_twice(self):
        self.commit_in_doubt("cuts_commits")

    def test_a_commit_that_never_arrived_leaves_no_lock_behind(self):
        """The server still has the session, in its transaction: that ends there."""
        self.commit_in_doubt("strands_commits", BACKGROUND_TASK_LEASE=12)


@unittest.skipUnless(connection.vendor == "sqlite", "SQLite's own")
class SQLiteTests(OutageTestCase):
    def test_another_that_keeps_it_locked(self):
        """For longer than it is waited for: a third of the lease."""
        other = connections["default"].copy()
        self.addCleanup(other.close)

        def leave():
            connections["default"].close()
            with other.cursor() as cursor:
                cursor.execute("BEGIN EXCLUSIVE")

        def come_back():
            other.close()

        self.survive(leave, come_back, lease=12)

    def test_a_full_disk_that_has_room_again(self):
        with a_small_disk(self) as folder:
            settings = connection.settings_dict | {"NAME": f"{folder}/database"}
            with default_database(settings):
                call_command("migrate", verbosity=0)
                connections["default"].close()
                filler = f"{folder}/filler"

                def leave():
                    connections["default"].close()
                    fill(filler)

                self.survive(leave, lambda: os.remove(filler))


@contextlib.contextmanager
def a_small_disk(test):
    """Have a file system of a few megabytes, which no process but ours sees.

    SQLite follows links to the end: there is no way to it from another namespace.
    """
    folder = test.folder / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNS):
            test.skipTest("No file system can be mounted here")
        try:
            for arguments in (
                ("--make-rprivate", "/"),
                ("-t", "tmpfs", "-o", "size=8m", "tmpfs", folder),
            ):
                subprocess.run(["mount", *arguments], check=True)
            yield folder
        finally:
            assert not libc.setns(here, _CLONE_NEWNS)
    finally:
        os.close(here)


def fill(path):
    """Write until there is no room left."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
