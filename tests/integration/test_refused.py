"""A try whose end the database refuses to have written."""

import pytest
from django.db import connection, models
from django.utils import timezone

from background_task.models import CompletedTask, Runner, Task
from tests.app import misbehaving
from tests.background_task.tools import model_pointing_at_tasks

from .tools import (
    LifecycleTestCase,
    command,
    completed,
    note,
    put,
    row,
    run_until_empty,
    stop,
    supervised,
    wait_until,
)

# No task of that name can be completed: in every database's own words.
TRIGGERS = {
    "sqlite": [
        """
        CREATE TRIGGER refuse BEFORE INSERT ON background_task_completedtask
        WHEN NEW.task_name LIKE '%unwind' BEGIN SELECT RAISE(ABORT, 'refused'); END
        """
    ],
    "postgresql": [
        """
        CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN
            RAISE EXCEPTION 'refused';
        END $$ LANGUAGE plpgsql
        """,
        """
        CREATE TRIGGER refuse BEFORE INSERT ON background_task_completedtask
        FOR EACH ROW WHEN (NEW.task_name LIKE '%unwind') EXECUTE FUNCTION refuse()
        """,
    ],
    "mysql": [
        """
        CREATE TRIGGER refuse BEFORE INSERT ON background_task_completedtask
        FOR EACH ROW IF NEW.task_name LIKE '%unwind' THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused';
        END IF
        """
    ],
}
DROP = {
    "sqlite": "DROP TRIGGER refuse",
    "postgresql": "DROP FUNCTION refuse() CASCADE",
    "mysql": "DROP TRIGGER refuse",
}
LARGEST = 2**31 - 1  # attempts that the column can hold


def hold(*tasks, by="a ghost"):
    """Have a runner that is gone hold these."""
    held = Task.objects.filter(pk__in=[task.pk for task in tasks])
    held.update(locked_by=by, locked_at=timezone.now())


@pytest.mark.lifecycle
class RefusedTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        for statement in TRIGGERS[connection.vendor]:
            self.execute(statement)
        self.addCleanup(self.execute, DROP[connection.vendor])

    def execute(self, statement):
        with connection.cursor() as cursor:
            cursor.execute(statement)

    def test_a_success_is_not_run_again_for_it_and_does_not_stop_the_others(self):
        poisoned = misbehaving.unwind(str(self.journal), "poisoned", 0)

        with supervised("--workers", 2) as runner:
            wait_until(lambda: row(poisoned).failed_at)
            completed(misbehaving.work(str(self.journal), "another"))
            status = stop(runner)
            output = runner.output

        kept = row(poisoned)
        self.assertRegex(
            kept.last_error, "^It succeeded, but that could not be recorded: .*refused"
        )
        self.assertEqual((kept.attempts, kept.locked_by), (1, None))
        self.assertEqual(self.journal.begun().count("poisoned"), 1)
        self.assertNotIn("it is replaced", output)
        self.assertEqual(status, 0)
        note("the database refused the success", kept)

    def test_task_run_says_that_it_was_run(self):
        poisoned = misbehaving.unwind(str(self.journal), "poisoned", 0)

        status, _, err = command("task_run", poisoned.pk)

        self.assertEqual(status, 1)
        self.assertRegex(
            err, r"was run, and is given up in place\. It succeeded, but that could not"
        )
        self.assertEqual(self.journal.begun(), ["poisoned"])

    def test_a_failure_is_tried_again_and_abandoned_when_it_is_to_be_given_up(self):
        failing = put("unwind", "no such journal/", "poisoned", 0)

        with supervised("--workers", 2, settings={"MAX_ATTEMPTS": 1}) as runner:
            wait_until(lambda: row(failing).failed_at)
            completed(misbehaving.work(str(self.journal), "another"))
            self.assertEqual(stop(runner), 0)
            output = runner.output

        self.assertRegex(
            row(failing).last_error, "^Lost: its end could not be recorded: .*refused"
        )
        self.assertEqual(CompletedTask.objects.count(), 1)
        self.assertNotIn("it is replaced", output)

    def test_a_dead_runners_row_that_is_refused_stops_no_other(self):
        held = put("unwind", "x", "y", 0, attempts=24)
        hold(held)
        healthy = misbehaving.work(str(self.journal), "another")

        output = run_until_empty()

        self.assertIsNone(completed(healthy).failed_at)
        self.assertRegex(
            row(held).last_error, "^Lost: its runner is unknown; .*refused"
        )
        self.assertIsNone(row(held).locked_by)
        self.assertNotIn("it is replaced", output)


@pytest.mark.lifecycle
class PointedAtTests(LifecycleTestCase):
    """A foreign key that only the commit finds broken, but on MySQL."""

    def test_its_row_is_abandoned_once_and_the_others_are_recorded(self):
        with model_pointing_at_tasks(models.DO_NOTHING) as Loan:
            go_on = self.folder / "go on"
            kept, *others = (
                misbehaving.wait_for(str(self.journal), label, str(go_on))
                for label in ("kept", "one", "two")
            )
            Loan.objects.create(task=kept)

            with supervised("--workers", 3) as runner:
                wait_until(lambda: len(self.journal.begun()) == 3)
                go_on.touch()
                wait_until(lambda: row(kept).failed_at)
                for task in others:
                    self.assertEqual(completed(task).attempts, 1)
                status = stop(runner)
                output = runner.output
            abandoned = row(kept)
            Loan.objects.all().delete()

        self.assertRegex(abandoned.last_error, "^It succeeded, but that could not")
        self.assertEqual((abandoned.attempts, abandoned.locked_by), (1, None))
        self.assertEqual(sorted(self.journal.begun()), ["kept", "one", "two"])
        self.assertEqual(CompletedTask.objects.count(), 2)
        self.assertNotIn("it is replaced", output)
        self.assertEqual(status, 0)

    def test_a_dead_runners_row_is_abandoned_and_the_others_are_lost(self):
        with model_pointing_at_tasks(models.DO_NOTHING) as Loan:
            kept = put("work", str(self.journal), "kept", attempts=24)
            other = put("work", str(self.journal), "other")
            hold(kept, other)
            Loan.objects.create(task=kept)

            output = run_until_empty()
            abandoned = row(kept)
            Loan.objects.all().delete()

        self.assertRegex(abandoned.last_error, "^Lost: its runner is unknown; that")
        self.assertEqual((abandoned.attempts, abandoned.locked_by), (25, None))
        self.assertEqual((row(other).attempts, row(other).locked_by), (1, None))
        self.assertNotIn("it is replaced", output)


@pytest.mark.lifecycle
class MomentForgottenTests(LifecycleTestCase):
    """A row whose locked_at somebody has emptied: its try has no name any more."""

    def test_it_is_not_run_twice_at_once_and_not_held_for_ever(self):
        go_on = self.folder / "go on"
        task = misbehaving.wait_for(str(self.journal), "it", str(go_on))

        with supervised("--workers", 2, settings={"BACKGROUND_TASK_LEASE": 10}) as one:
            self.journal.pid_of("it")
            Task.objects.update(locked_at=None)
            before = Runner.objects.get().trusted_until
            wait_until(lambda: Runner.objects.get().trusted_until > before)
            again = Runner.objects.get().trusted_until
            wait_until(lambda: Runner.objects.get().trusted_until > again)
            begun = self.journal.begun()
            go_on.touch()
            completed(task)
            status = stop(one)

        self.assertEqual(begun, ["it"])
        self.assertEqual(self.journal.overlaps(), [])
        self.assertEqual(status, 0)
        self.assertEqual(Runner.objects.count(), 0)


@pytest.mark.lifecycle
class CountedToTheEndTests(LifecycleTestCase):
    """A column that can't hold one more attempt."""

    def test_a_dead_runners_row_is_abandoned_and_stops_no_other(self):
        held = put("unwind", "x", "y", 0, attempts=LARGEST)
        hold(held)
        healthy = misbehaving.work(str(self.journal), "another")

        output = run_until_empty()

        self.assertIsNone(completed(healthy).failed_at)
        self.assertNotIn("it is replaced", output)
        if connection.vendor != "sqlite":  # whose numbers are longer
            self.assertRegex(row(held).last_error, "^Lost: its runner is unknown; ")
            self.assertEqual((row(held).attempts, row(held).locked_by), (LARGEST, None))


REFUSE_ALL = {
    "sqlite": [
        """
        CREATE TRIGGER refuse BEFORE UPDATE ON background_task
        WHEN OLD.task_name LIKE '%unwind' BEGIN SELECT RAISE(ABORT, 'refused'); END
        """
    ],
    "postgresql": [
        TRIGGERS["postgresql"][0],
        """
        CREATE TRIGGER refuse BEFORE UPDATE ON background_task
        FOR EACH ROW WHEN (OLD.task_name LIKE '%unwind') EXECUTE FUNCTION refuse()
        """,
    ],
    "mysql": [
        """
        CREATE TRIGGER refuse BEFORE UPDATE ON background_task
        FOR EACH ROW IF OLD.task_name LIKE '%unwind' THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused';
        END IF
        """
    ],
}


@pytest.mark.lifecycle
class UntouchableTests(LifecycleTestCase):
    """A row about which nothing at all can be written."""

    def test_a_dead_runners_row_is_told_of_once_and_stops_no_other(self):
        held = put("unwind", "x", "y", 0)
        lost = put("work", str(self.journal), "lost")
        hold(held, lost)
        with connection.cursor() as cursor:
            for statement in REFUSE_ALL[connection.vendor]:
                cursor.execute(statement)
        self.addCleanup(self.drop)

        with supervised("--workers", 2) as runner:
            completed(misbehaving.work(str(self.journal), "another"))
            wait_until(lambda: row(lost).attempts == 1)
            # Its rounds go on: what is lost later is found by one of them.
            later = put("work", str(self.journal), "later")
            hold(later, by="a later ghost")
            wait_until(lambda: row(later).attempts == 1)
            self.assertEqual(stop(runner), 0)
            output = runner.output

        self.assertEqual(row(held).locked_by, "a ghost")
        self.assertEqual(output.count(f"Task {held.pk} can't even be abandoned"), 1)
        self.assertNotIn("it is replaced", output)

    def drop(self):
        with connection.cursor() as cursor:
            cursor.execute(DROP[connection.vendor])
