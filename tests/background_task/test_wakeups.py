"""A runner learns at once of what was enqueued."""

import select
import threading
from contextlib import closing

from django.db import connection, connections, transaction
from django.test import TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from background_task import books, wakeups
from background_task.models import Task
from background_task.served import Served

from .tools import make_claimed_task, make_task


def elsewhere(do):
    """Do it on a connection of its own, as another process would."""

    def work():
        with closing(connections["default"]):
            do()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)


def bulk_create():
    Task.objects.bulk_create(
        [Task(task_name="job", queue="mail", run_at=timezone.now())]
    )


class ListenerTests(TransactionTestCase):
    def listen(self, *queues):
        """Return a listener on this connection that has heard of all until now."""
        return self.listen_to(Served(frozenset(queues)))

    def listen_to(self, served):
        listener = wakeups.listener(connection, served.__contains__)
        connection.ensure_connection()
        listener.prepare(connection)
        self.addCleanup(connection.close)
        listener.heard()
        return listener

    def assert_hears(self, listener, do, hears=True):
        self.assertFalse(listener.heard())
        elsewhere(do)
        if hears and listener.fileno() is not None:
            ready, _, _ = select.select([listener.fileno()], [], [], 30)
            self.assertTrue(ready)
        self.assertEqual(listener.heard(), hears)
        self.assertFalse(listener.heard())


class PostgreSQLTests(ListenerTests):
    def setUp(self):
        if connection.vendor != "postgresql":
            self.skipTest("NOTIFY is PostgreSQL's")

    def test_it_hears_of_every_way_to_enqueue(self):
        listener = self.listen()
        for do in (lambda: make_task("job"), bulk_create):
            with self.subTest(do):
                self.assert_hears(listener, do)

    def test_it_hears_of_what_is_given_back(self):
        _, claim = make_claimed_task()

        self.assert_hears(self.listen(), lambda: books.release(claim))

    def test_it_hears_of_its_queues_only(self):
        listener = self.listen("mail")

        self.assert_hears(listener, lambda: make_task("job", queue="mail"))
        self.assert_hears(listener, lambda: make_task("job", queue="other"), False)
        self.assert_hears(listener, lambda: make_task("job"), False)

    def test_it_does_not_hear_of_excluded_queues(self):
        served = Served(excluded=frozenset({"mail", None}))
        listener = self.listen_to(served)

        self.assert_hears(listener, lambda: make_task("job", queue="other"))
        self.assert_hears(listener, lambda: make_task("job", queue="mail"), False)
        self.assert_hears(listener, lambda: make_task("job"), False)

    def test_it_hears_what_comes_with_an_answer(self):
        listener = self.listen()
        elsewhere(lambda: make_task("job"))

        Task.objects.count()

        self.assertTrue(listener.heard())

    def test_it_hears_nothing_of_what_is_rolled_back(self):
        def enqueue_in_vain():
            with transaction.atomic():
                make_task("job")
                transaction.set_rollback(True)

        self.assert_hears(self.listen(), enqueue_in_vain, hears=False)

    def test_a_lost_connection_is_heard_of(self):
        listener = self.listen()
        pid = connection.connection.info.backend_pid

        def terminate():
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", [pid])

        elsewhere(terminate)
        heard = False
        while not heard:  # first the server's farewell, then the end
            ready, _, _ = select.select([listener.fileno()], [], [], 30)
            self.assertTrue(ready)
            heard = listener.heard()

    def test_a_save_of_what_exists_tells_nobody(self):
        task = make_task("job")
        with CaptureQueriesContext(connection) as queries:
            task.save()

        self.assertNotIn("pg_notify", str(list(queries)))

    @override_settings(BACKGROUND_TASK_NOTIFY=False)
    def test_it_can_be_turned_off(self):
        with CaptureQueriesContext(connection) as queries:
            make_task("job")

        self.assertNotIn("pg_notify", str(list(queries)))
        self.assertIs(type(wakeups.listener(connection, ())), wakeups.Listener)


class SQLiteTests(ListenerTests):
    def setUp(self):
        if connection.vendor != "sqlite":
            self.skipTest("data_version is SQLite's")

    def test_it_sees_that_another_has_committed(self):
        self.assert_hears(self.listen(), lambda: make_task("job"))

    def test_it_does_not_see_its_own_commits(self):
        listener = self.listen()
        make_task("job")

        self.assertFalse(listener.heard())


class ElsewhereTests(ListenerTests):
    def test_nothing_is_heard_where_nothing_tells(self):
        if connection.vendor != "mysql":
            self.skipTest("the others tell")
        listener = self.listen()

        self.assert_hears(listener, lambda: make_task("job"), hears=False)
        self.assertIsNone(listener.every)
