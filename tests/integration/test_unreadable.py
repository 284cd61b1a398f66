"""Rows that hold what Python can't read, as others may have written them."""

import pytest
from django.utils import timezone

from background_task.models import Task
from tests.app import misbehaving
from tests.background_task.tools import UNREADABLE, make_unreadable

from .tools import (
    EVERYTHING,
    LifecycleTestCase,
    completed,
    put,
    run_until_empty,
    supervised,
    wait_until,
)


def error_of(task):
    return Task.objects.values_list("last_error", flat=True).get(pk=task.pk)


def locked_by(task):
    return Task.objects.values_list("locked_by", flat=True).get(pk=task.pk)


@pytest.mark.lifecycle
class UnreadableTests(LifecycleTestCase):
    def test_it_is_abandoned_and_stops_neither_the_start_nor_the_others(self):
        unreadable = []
        for column in ("run_at", "repeat_until"):
            for moment in UNREADABLE:
                if (column, moment) != ("run_at", "infinity"):
                    task = put("work", str(self.journal), f"{column} {moment}")
                    make_unreadable(task, column, moment)
                    unreadable.append((column, moment, task))
        healthy = misbehaving.work(str(self.journal), "healthy")

        output = run_until_empty()

        self.assertIsNone(completed(healthy).failed_at)
        self.assertNotIn("it is replaced", output)
        self.assertEqual(self.journal.ended(), ["healthy"])
        for column, moment, task in unreadable:
            if moment.startswith("12345") and column == "run_at":
                continue  # not due in our time
            with self.subTest(column=column, moment=moment):
                self.assertRegex(error_of(task), "^Its row can't be read: ")

    def test_what_is_planned_for_no_moment_of_ours_stops_nothing(self):
        for moment in UNREADABLE:
            make_unreadable(put("work", str(self.journal), "never"), "run_at", moment)

        with supervised("--sleep", 0.2, settings={"LOGGING": EVERYTHING}) as runner:
            for looks in (1, 3):
                wait_until(lambda n=looks: runner.output.count("Waiting for") >= n)
                completed(misbehaving.work(str(self.journal), "healthy"))
            output = runner.output

        self.assertNotIn("it is replaced", output)

    def test_what_a_dead_runner_held_is_abandoned_and_stops_no_other(self):
        columns = ("locked_at", "repeat_until")
        held = [put("work", str(self.journal), column) for column in columns]
        healthy = put("work", str(self.journal), "healthy")
        Task.objects.update(locked_by="a ghost", locked_at=timezone.now())
        for task, column in zip(held, columns, strict=True):
            make_unreadable(task, column)

        output = run_until_empty()

        self.assertNotIn("it is replaced", output)
        for task in (*held, healthy):
            self.assertRegex(error_of(task), "^Lost: its runner is unknown")
            self.assertIsNone(locked_by(task))
