"""Tasks that repeat, and whoever runs them dies, or they fail for good."""

import contextlib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psutil
import pytest
from django.db import connection, transaction
from django.utils import timezone

from background_task.models import CompletedTask, Task
from tests.app import misbehaving

from .test_refused import DROP, TRIGGERS
from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    make_due,
    put,
    refused,
    row,
    run_until_empty,
    stop,
    supervised,
    title_of,
    wait_until,
)

BERLIN = ZoneInfo("Europe/Berlin")
IN_BERLIN = {"BACKGROUND_TASK_REPEAT_TIMEZONE": "Europe/Berlin"}
ONCE = {"MAX_ATTEMPTS": 1, "BACKGROUND_TASK_REPEAT_AFTER_FAILURE": True}


def bookkeeper(runner):
    """Return its bookkeeper, once there is one."""

    def found():
        return [p for p in runner.processes() if ": bookkeeper" in title_of(p)]

    return wait_until(found, what="a bookkeeper")[0]


@pytest.mark.lifecycle
class KilledTests(LifecycleTestCase):
    """A chain has one link to come, whoever is killed, and whenever."""

    def assert_one_link(self, task):
        """The task has been completed once, and one run of it is to come."""
        alike = CompletedTask.objects.filter(task_hash=task.task_hash)
        self.assertEqual(alike.get().task_id, task.pk)
        following = Task.objects.get(task_hash=task.task_hash)
        self.assertEqual(following.repeat, Task.DAILY)
        self.assertEqual(following.attempts, 0)
        self.assertGreater(following.run_at, timezone.now())

    def test_a_bookkeeper_is_killed_in_the_middle_of_the_record(self):
        go_on = self.folder / "go on"
        task = misbehaving.wait_for(
            str(self.journal), "it", str(go_on), repeat=Task.DAILY
        )

        with supervised("--workers", 2) as runner:
            self.journal.pid_of("it")
            with self.held_up(task):
                writer = bookkeeper(runner)
                go_on.touch()
                wait_until(lambda: self.journal.ended() == ["it"])
                writer.kill()
                runner.says("The bookkeeper died; it is replaced")
            completed(task)
            completed(misbehaving.work(str(self.journal), "after"))
            status = stop(runner)

        self.assert_one_link(task)
        self.assertEqual(self.journal.begun().count("it"), 1)
        self.assertEqual(status, 0)

    @contextlib.contextmanager
    def held_up(self, task):
        """Have whoever writes about this task wait for us."""
        with transaction.atomic():
            if connection.features.has_select_for_update:
                Task.objects.select_for_update().get(pk=task.pk)
            yield

    def test_bookkeepers_are_killed_while_tasks_end(self):
        tasks = [
            misbehaving.work(str(self.journal), f"{n}", repeat=Task.DAILY)
            for n in range(4)
        ]

        with supervised("--workers", 4) as runner:
            for number in (1, 2):
                wait_until(lambda n=number: len(self.journal.ended()) >= n)
                with contextlib.suppress(psutil.NoSuchProcess):
                    bookkeeper(runner).kill()
            for task in tasks:
                completed(task)
            status = stop(runner)

        for task in tasks:
            self.assert_one_link(task)
        self.assertEqual(self.journal.overlaps(), [])
        self.assertEqual(status, 0)

    def test_a_supervisor_is_killed_and_a_neighbour_goes_on(self):
        go_on = self.folder / "go on"
        task = misbehaving.wait_for(
            str(self.journal), "it", str(go_on), repeat=Task.DAILY
        )

        with supervised() as runner:
            self.journal.pid_of("it")
            runner.kill()
            wait_until(runner.is_gone, what="all its processes are gone")
        go_on.touch()
        with supervised() as neighbour:
            lost = attempted(task, 1)
            self.assertEqual(Task.objects.count(), 1)
            make_due(task)
            completed(task)
            stop(neighbour)

        self.assertEqual(lost.last_error, "Lost: its runner died")
        self.assert_one_link(task)


@pytest.mark.lifecycle
class FailedForGoodTests(LifecycleTestCase):
    """With the setting a chain goes on after every kind of final failure."""

    def run_all(self, settings):
        """Have repeating tasks fail for good in every way; return them by the error."""
        overrides = {
            "tests.app.misbehaving.work": {"max_run_time": 1},
            "tests.app.misbehaving.hold_memory": {"memory_limit": "200M"},
        }
        daily = {"repeat": Task.DAILY}
        tasks = {
            "ValueError: oops": misbehaving.fail("oops", **daily),
            "InvalidTaskError: never": misbehaving.be_invalid("never", **daily),
            "Stopped after": misbehaving.work(str(self.journal), "long", 600, **daily),
            "Stopped at": misbehaving.hold_memory(400, **daily),
            "Crashed": misbehaving.os_exit(7, **daily),
            "Lost": put("unwind", str(self.journal), "it", 0, repeat=Task.DAILY),
        }
        Task.objects.filter(pk=tasks["Lost"].pk).update(
            locked_by="a ghost", locked_at=timezone.now()
        )

        run_until_empty(
            *("--workers", 3),
            settings=settings | {"BACKGROUND_TASK_OVERRIDES": overrides},
        )

        for text, task in tasks.items():
            with self.subTest(text):
                failed = completed(task)
                self.assertIsNotNone(failed.failed_at)
                self.assertEqual(failed.attempts, 1)
                self.assertIn(text, failed.last_error)
        return tasks

    def test_the_next_run_is_planned(self):
        tasks = self.run_all(ONCE)

        for text, task in tasks.items():
            with self.subTest(text):
                following = Task.objects.get(task_hash=task.task_hash)
                self.assertEqual(following.run_at, task.run_at + timedelta(days=1))
                self.assertEqual((following.attempts, following.last_error), (0, ""))
                self.assertEqual(
                    (following.failed_at, following.locked_by), (None,) * 2
                )
                self.assertEqual(following.repeat, Task.DAILY)
                self.assertEqual(completed(task).repeat, Task.NEVER)

    def test_without_the_setting_the_chains_end(self):
        tasks = self.run_all({"MAX_ATTEMPTS": 1})

        self.assertEqual(Task.objects.count(), 0)
        for task in tasks.values():
            self.assertEqual(completed(task).repeat, Task.DAILY)


@pytest.mark.lifecycle
class RefusedTests(LifecycleTestCase):
    def test_a_success_that_cannot_be_recorded_is_repeated(self):
        for statement in TRIGGERS[connection.vendor]:
            self.execute(statement)
        self.addCleanup(self.execute, DROP[connection.vendor])
        task = misbehaving.unwind(str(self.journal), "poisoned", 0, repeat=Task.DAILY)

        with supervised() as runner:
            wait_until(lambda: row(task).failed_at)
            status = stop(runner)

        self.assertRegex(row(task).last_error, "^It succeeded, but")
        self.assertEqual(row(task).repeat, Task.NEVER)
        following = Task.objects.get(failed_at=None)
        self.assertEqual(following.run_at, task.run_at + timedelta(days=1))
        self.assertEqual(following.repeat, Task.DAILY)
        self.assertEqual(self.journal.begun(), ["poisoned"])
        self.assertEqual(status, 0)

    def execute(self, statement):
        with connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.mark.lifecycle
class LocalTimeTests(LifecycleTestCase):
    def test_a_daily_task_keeps_its_local_time(self):
        for how in ((), ("--in-process",)):
            for month in (1, 7):  # one of them is of another offset than today
                night = datetime(2026, month, 15, 2, 30, tzinfo=BERLIN)
                label = f"{month}{how}"
                misbehaving.work(
                    *(str(self.journal), label),
                    schedule=night.astimezone(UTC),
                    repeat=Task.DAILY,
                )

            run_until_empty(*how, settings=IN_BERLIN)

            self.assertEqual(Task.objects.count(), 2)
            for following in Task.objects.all():
                local = following.run_at.astimezone(BERLIN)
                self.assertEqual(f"{local:%H:%M:%S}", "02:30:00")
                self.assertGreater(following.run_at, timezone.now())
            Task.objects.all().delete()

    def test_a_zone_that_is_none_is_refused_at_the_start(self):
        for how in ((), ("--in-process",)):
            output = refused(
                *how, settings={"BACKGROUND_TASK_REPEAT_TIMEZONE": "Europe/Berln"}
            )
            self.assertIn(
                "BACKGROUND_TASK_REPEAT_TIMEZONE is 'Europe/Berln': it must be", output
            )
            self.assertIn("did you mean 'Europe/Berlin'?", output)
