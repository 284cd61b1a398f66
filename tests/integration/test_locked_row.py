"""A row that somebody else has locked when something is to be written about it."""

import unittest

import pytest
from django.db import connection, transaction
from django.utils import timezone

from background_task.models import Control, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    put,
    row,
    stop,
    supervised,
    wait_until,
)


@pytest.mark.lifecycle
@unittest.skipUnless(
    connection.features.has_select_for_update, "one lock for the whole database"
)
class LockedRowTests(LifecycleTestCase):
    def lock(self, task):
        Task.objects.select_for_update().get(pk=task.pk)

    def test_it_waits_and_the_others_are_recorded(self):
        go_on = self.folder / "go on"
        locked, other = (
            misbehaving.wait_for(str(self.journal), label, str(go_on))
            for label in ("locked", "other")
        )

        with supervised("--workers", 2) as runner:
            wait_until(lambda: len(self.journal.begun()) == 2)
            with transaction.atomic():
                self.lock(locked)
                go_on.touch()
                completed(other)
                completed(self.enqueue("claimed meanwhile"))
                still = row(locked)
            done = completed(locked)
            status = stop(runner)
            output = runner.output

        self.assertIsNotNone(still.locked_by)
        self.assertEqual((done.attempts, done.failed_at), (1, None))
        self.assertNotIn("is unavailable", output)
        self.assertNotIn("it is replaced", output)
        self.assertEqual(self.journal.ended().count("claimed meanwhile"), 1)
        self.assertEqual(status, 0)

    def test_one_that_is_to_be_stopped_keeps_no_other_from_being_cancelled(self):
        never = timezone.now().replace(year=2100)
        locked, other = (
            misbehaving.work(str(self.journal), label, schedule=never)
            for label in ("locked", "other")
        )
        for task in (locked, other):
            Control.objects.create(verb="stop", target=task.pk, by="ann", at=never)

        with transaction.atomic():
            self.lock(locked)
            with supervised("--workers", 2) as runner:
                completed(other)
                still = row(locked)
                status = stop(runner)

        self.assertEqual(still.failed_at, None)
        self.assertEqual(Control.objects.get().target, str(locked.pk))
        self.assertEqual(status, 0)

    def test_where_orders_stand_is_locked_and_all_goes_on(self):
        """As while its table is altered; for longer than a bookkeeper may be silent."""
        table = connection.ops.quote_name(Control._meta.db_table)
        lock, unlock = {
            "postgresql": (f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", "COMMIT"),
            "mysql": (f"LOCK TABLES {table} WRITE", "UNLOCK TABLES"),
        }[connection.vendor]
        other = connection.copy("other")
        self.addCleanup(other.close)
        unread = (
            "Orders (stop, pause, drain) could not be read yet: another session has"
        )
        settings = {"BACKGROUND_TASK_LEASE": 12}  # a third of it is the longest wait
        with supervised("--workers", 2, settings=settings) as runner:
            completed(misbehaving.work(str(self.journal), "before"))
            other.set_autocommit(False)
            with other.cursor() as cursor:
                cursor.execute(lock)
                while runner.output.count(unread) < 3:
                    completed(misbehaving.work(str(self.journal), "meanwhile"))
                cursor.execute(unlock)
            status = stop(runner)
            output = runner.output

        self.assertNotIn("is unavailable", output)
        self.assertNotIn("it is replaced", output)
        self.assertEqual(status, 0)

    def enqueue(self, label):
        """Enqueue as another would, outside this transaction."""
        task = Task.objects.new_task(
            "tests.app.misbehaving.work", (str(self.journal), label), {}
        )
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                sql, params = insertion(task)
                cursor.execute(sql, params)
        finally:
            other.close()
        return task

    def test_what_a_dead_runner_held_waits_alone(self):
        locked = put("work", str(self.journal), "locked")
        other = put("work", str(self.journal), "other")
        Task.objects.update(locked_by="a ghost", locked_at=timezone.now())

        with transaction.atomic():
            self.lock(locked)
            with supervised("--workers", 2) as runner:
                attempted(other, 1)
                still = row(locked)
                status = stop(runner)
                output = runner.output
        with supervised("--workers", 2) as runner:
            rescued = attempted(locked, 1)
            stop(runner)

        self.assertEqual(still.locked_by, "a ghost")
        self.assertRegex(rescued.last_error, "^Lost: its runner is unknown")
        self.assertNotIn("is unavailable", output)
        self.assertEqual(status, 0)


def insertion(task):
    """Return the statement that saves a task, for another connection."""
    values = {
        field.column: field.get_db_prep_save(getattr(task, field.attname), connection)
        for field in Task._meta.concrete_fields
        if not field.primary_key
    }
    columns = ", ".join(map(connection.ops.quote_name, values))
    places = ", ".join(["%s"] * len(values))
    return (
        f"INSERT INTO background_task ({columns}) VALUES ({places})",
        list(values.values()),
    )
