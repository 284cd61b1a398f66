"""Who is trusted, for how long, and what becomes of what the others held."""

import contextlib
import signal
import unittest
from contextlib import closing
from datetime import timedelta

import psutil
import pytest
from django.db import connection, transaction
from django.utils import timezone

from background_task.models import Attempt, Runner, Task
from tests.app import misbehaving
from tests.chaos.proxy import Proxy, upstream

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    effective_databases,
    is_alive,
    is_held,
    make_due,
    put,
    row,
    stop,
    supervised,
    title_of,
    wait_until,
)

SHORT = {"BACKGROUND_TASK_LEASE": 10}
A_LEASE = 3  # renewals, one at each third of it
# Processes that see no others, and are seen by them.
ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def process_of(runner, name):
    (process,) = [p for p in runner.processes() if name in title_of(p).split()[1:]]
    return process


def wait_for_renewals(runner_id, times):
    for _ in range(times):
        before = Runner.objects.get(pk=runner_id).trusted_until
        wait_until(
            lambda before=before: (
                Runner.objects.get(pk=runner_id).trusted_until > before
            ),
            what="a renewal of the lease",
        )


def make_elsewhere(name, trusted_for):
    """Save a runner of another host, whose lease lasts for so many seconds."""
    now = timezone.now()
    return Runner.objects.create(
        id=name,
        host="elsewhere",
        place="another boot:4711",
        pid=1,
        pid_started=1,
        started_at=now,
        trusted_until=now + timedelta(seconds=trusted_for),
    )


class LeaseTestCase(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.go_on = self.folder / "go on"

    def deaf_task(self):
        return misbehaving.beat_deaf(str(self.journal), "deaf", str(self.go_on))


@pytest.mark.lifecycle
class FrozenTests(LeaseTestCase):
    def freeze(self, *processes):
        for process in processes:
            process.send_signal(signal.SIGSTOP)
            self.addCleanup(self.thaw, process)

    def thaw(self, *processes):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def test_a_frozen_supervisor_whose_bookkeeper_renews_keeps_its_tasks(self):
        task = self.deaf_task()
        with supervised(settings=SHORT) as runner:
            self.journal.pid_of("deaf")
            mine = Runner.objects.get()
            with supervised(settings=SHORT) as neighbour:
                wait_until(lambda: Runner.objects.count() == 2)
                self.freeze(psutil.Process(runner.pid))
                wait_for_renewals(mine.id, A_LEASE + 1)  # for longer than it lasts
                held = row(task)
                self.thaw(psutil.Process(runner.pid))
                wait_for_renewals(mine.id, 1)
                self.go_on.touch()
                done = completed(task)
                statuses = [stop(runner), stop(neighbour)]

        self.assertEqual((held.locked_by, held.attempts), (mine.id, 0))
        self.assertEqual((done.attempts, done.locked_by), (1, mine.id))
        self.assertEqual(self.journal.begun(), ["deaf"])
        self.assertEqual(statuses, [0, 0])

    def test_one_of_this_place_that_has_lapsed_is_killed_and_swept(self):
        """But on SQLite, where a long wait for the one lock is normal."""
        task = self.deaf_task()
        with supervised(settings=SHORT) as runner:
            pid = self.journal.pid_of("deaf")
            mine = Runner.objects.get()
            aides = psutil.Process(runner.pid), process_of(runner, "bookkeeper")
            self.freeze(*aides)
            with supervised(settings=SHORT) as neighbour:
                if connection.vendor == "sqlite":
                    self.assert_it_is_left_alone(mine, task)
                    self.thaw(*aides)
                    self.go_on.touch()
                    completed(task)
                    self.assertEqual(stop(runner), 0)
                else:
                    lost = attempted(task, 1)
                    self.assertEqual(runner.ended(), -signal.SIGKILL)
                    self.assertEqual(lost.last_error, "Lost: its runner died")
                    self.assertFalse(Runner.objects.filter(pk=mine.id).exists())
                    self.assertFalse(is_alive(pid))
                status = stop(neighbour)

        self.assertEqual(self.journal.overlaps(), [])
        self.assertEqual(status, 0)

    def assert_it_is_left_alone(self, lapsed, task):
        wait_until(lambda: Runner.objects.count() == 2)
        other = Runner.objects.exclude(pk=lapsed.id).get()
        wait_until(lambda: not Runner.objects.get(pk=lapsed.id).is_trusted())
        wait_for_renewals(other.id, A_LEASE)
        self.assertEqual((row(task).locked_by, row(task).attempts), (lapsed.id, 0))


@unittest.skipIf(connection.vendor == "sqlite", "no network is in between")
@pytest.mark.lifecycle
class ElsewhereTests(LeaseTestCase):
    """A runner of another place, which the database is out of reach for."""

    def test_a_task_that_will_not_stop_is_dead_before_another_takes_it_over(self):
        proxy = Proxy(upstream(connection.settings_dict))
        self.addCleanup(proxy.close)
        databases = effective_databases()
        databases["default"] |= {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        task = self.deaf_task()

        how = {"settings": SHORT, "databases": databases, "prefix": ELSEWHERE}
        with supervised(**how) as runner:
            wait_until(lambda: self.journal.begun() or runner.process.poll())
            if runner.process.poll():
                self.skipTest("No namespace can be had here")
            theirs = Runner.objects.get()
            proxy.refuses = True
            proxy.cut()
            with supervised(settings=SHORT) as neighbour:
                wait_until(lambda: is_held(task) and row(task).locked_by == theirs.id)
                lost = attempted(task, 1)
                make_due(task)
                wait_until(lambda: len(self.journal.begun()) == 2)
                proxy.calm()
                runner.says(f"Runner {theirs.id} was declared dead by another")
                wait_until(lambda: Runner.objects.count() == 2)
                self.go_on.touch()
                done = completed(task)
                process_of(runner, "supervisor").send_signal(signal.SIGTERM)
                statuses = [runner.ended(), stop(neighbour)]

        self.assertRegex(lost.last_error, "^Lost: nothing was heard of its runner on ")
        self.assertEqual(self.journal.overlaps(), [])
        self.assertEqual(done.attempts, 2)
        self.assertEqual(statuses, [0, 0])
        numbers = Attempt.objects.order_by("number").values_list("number", "outcome")
        self.assertEqual(list(numbers), [(1, "Lost"), (2, "Succeeded")])


@pytest.mark.lifecycle
class ComparisonTests(LeaseTestCase):
    def test_what_only_the_database_thinks_is_held_is_released(self):
        """As what an earlier bookkeeper claimed, and nobody has read of."""
        with supervised(settings=SHORT) as runner:
            wait_until(Runner.objects.exists)
            stray = put("work", str(self.journal), "stray")
            mine = Runner.objects.get().id
            with transaction.atomic():
                Task.objects.filter(pk=stray.pk, locked_by=None).update(
                    locked_by=mine, locked_at=timezone.now() - timedelta(seconds=1)
                )
            done = completed(stray)
            status = stop(runner)

        self.assertEqual(done.attempts, 1)
        self.assertEqual(self.journal.begun(), ["stray"])
        self.assertEqual(len(mine), 32)
        self.assertEqual(status, 0)


@pytest.mark.postgresql
class OneTransactionTests(LeaseTestCase):
    def execute(self, *statements):
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def test_a_runner_is_forgotten_in_the_transaction_that_frees_its_tasks(self):
        self.execute(
            "CREATE TABLE seen (what text, at bigint)",
            "CREATE FUNCTION see() RETURNS trigger AS $$ BEGIN INSERT INTO seen "
            "VALUES (TG_TABLE_NAME, txid_current()); RETURN NULL; END $$ "
            "LANGUAGE plpgsql",
            "CREATE TRIGGER see AFTER UPDATE ON background_task FOR EACH ROW "
            "WHEN (OLD.locked_by = 'silent' AND NEW.locked_by IS NULL) "
            "EXECUTE FUNCTION see()",
            "CREATE TRIGGER see AFTER DELETE ON background_task_runner FOR EACH ROW "
            "WHEN (OLD.id = 'silent') EXECUTE FUNCTION see()",
        )
        self.addCleanup(self.execute, "DROP FUNCTION see() CASCADE", "DROP TABLE seen")
        make_elsewhere("silent", trusted_for=-1)
        now = timezone.now()
        tasks = [put("work", str(self.journal), f"lost {n}") for n in range(2)]
        Task.objects.update(locked_by="silent", locked_at=now)

        with supervised() as runner:
            for task in tasks:
                attempted(task, 1)
            stop(runner)
        with connection.cursor() as cursor:
            cursor.execute("SELECT what, at FROM seen")
            seen = cursor.fetchall()

        self.assertEqual(len(seen), 3)
        self.assertEqual(len({at for _, at in seen}), 1)


@pytest.mark.lifecycle
class RescueTests(LeaseTestCase):
    """Of a runner of elsewhere, of which nothing is known but its lease."""

    def setUp(self):
        super().setUp()
        make_elsewhere("silent", trusted_for=-1)

    def hold(self, *tasks):
        pks = [task.pk for task in tasks]
        held = {"locked_by": "silent", "locked_at": timezone.now()}
        Task.objects.filter(pk__in=pks).update(**held)

    @unittest.skipIf(connection.vendor == "sqlite", "one writes at a time")
    def test_one_that_renews_its_lease_meanwhile_keeps_its_tasks(self):
        """It was found to have lapsed, and waits for its row to be free."""
        task = put("work", str(self.journal), "held")
        self.hold(task)
        with closing(connection.copy()) as other, transaction.atomic():
            Runner.objects.filter(pk="silent").update(
                trusted_until=timezone.now() + timedelta(hours=1)
            )
            runner = self.enterContext(supervised())
            wait_until(lambda: is_waited_for(other), what="the rescuer waits")
        ours = Runner.objects.exclude(pk="silent").get()
        wait_for_renewals(ours.pk, 1)
        completed(put("work", str(self.journal), "free"))
        status = stop(runner)

        self.assertTrue(Runner.objects.filter(pk="silent").exists())
        self.assertEqual((row(task).locked_by, row(task).attempts), ("silent", 0))
        self.assertEqual(self.journal.begun(), ["free"])
        self.assertEqual(status, 0)

    def test_more_than_fit_in_one_transaction_are_all_rescued(self):
        many = 230
        tasks = [put("work", str(self.journal), f"{n}") for n in range(many)]
        self.hold(*tasks)
        with supervised() as runner:
            wait_until(lambda: not Runner.objects.filter(pk="silent").exists())
            lost = Task.objects.filter(attempts=1, locked_by=None)
            self.assertEqual(lost.count(), many)
            status = stop(runner)

        self.assertEqual(status, 0)


def is_waited_for(other):
    """Does a session wait for a lock of another's?"""
    look = {
        "postgresql": "SELECT COUNT(*) FROM pg_locks WHERE NOT granted",
        "mysql": "SELECT variable_value FROM information_schema.global_status "
        "WHERE variable_name = 'Innodb_row_lock_current_waits'",
    }
    with other.cursor() as cursor:
        cursor.execute(look[other.vendor])
        return int(cursor.fetchone()[0]) > 0


@pytest.mark.lifecycle
class TimeZoneTests(LeaseTestCase):
    """A runner whose project and session are five hours east, on a host in New York."""

    def far_east(self, use_tz):
        settings = connection.settings_dict
        names = ("ENGINE", "NAME", "HOST", "PORT", "USER", "PASSWORD")
        database = {name: str(settings[name]) for name in names}
        if connection.vendor == "postgresql" and use_tz:  # else it is the project's
            database["TIME_ZONE"] = "Asia/Karachi"
        elif connection.vendor == "mysql":
            database["OPTIONS"] = {"init_command": "SET time_zone = '+05:00'"}
        return SHORT | {
            "DATABASES": {"default": database},
            "TIME_ZONE": "Asia/Karachi",
            "USE_TZ": use_tz,
        }

    def live_among_others(self, use_tz):
        """Be trusted by one in Greenwich, and judge others rightly."""
        now = timezone.now()
        others = {}
        for name, trusted_for in (("silent", -2), ("trusted", 3600)):
            others[name] = make_elsewhere(name, trusted_for)
        lost, kept = (put("work", str(self.journal), name) for name in others)
        for task, runner in zip((lost, kept), others, strict=True):
            Task.objects.filter(pk=task.pk).update(locked_by=runner, locked_at=now)
        task = self.deaf_task()

        how = {"environment": {"TZ": "America/New_York"}}
        with supervised(settings=self.far_east(use_tz), **how) as runner:
            self.journal.pid_of("deaf")
            mine = Runner.objects.exclude(pk__in=others).get()
            left = mine.trusted_until - timezone.now()
            with supervised(settings=SHORT) as neighbour:
                wait_for_renewals(mine.id, A_LEASE + 1)
                wait_until(Attempt.objects.filter(task_id=lost.pk).exists)
                self.go_on.touch()
                done = completed(task)
                statuses = [stop(runner), stop(neighbour)]

        self.assertLess(abs(left), timedelta(seconds=60))
        self.assertEqual((done.attempts, done.locked_by), (1, mine.id))
        first = Attempt.objects.get(task_id=lost.pk, number=1)
        self.assertEqual(first.outcome, "Lost")
        self.assertEqual(row(kept).locked_by, "trusted")
        self.assertEqual(self.journal.begun().count("deaf"), 1)
        self.assertEqual(statuses, [0, 0])

    def test_aware_of_time_zones(self):
        self.live_among_others(use_tz=True)

    def test_without_time_zones(self):
        self.live_among_others(use_tz=False)
