"""Who is trusted until when, on every database and in every time zone."""

from datetime import timedelta

from django.db import connection, transaction
from django.test import TransactionTestCase, override_settings
from django.utils import timezone

from background_task import leases
from background_task.clock import DatabaseTime
from background_task.models import Runner, Task

from .tools import make_claimed_task

ABOUT = {"host": "here", "place": "boot:1", "pid": 4711, "pid_started": 99}


class LeaseTestCase(TransactionTestCase):
    def register(self, runner_id="a-runner", lease=30.0, **about):
        leases.register(runner_id, lease, **ABOUT | about)
        return Runner.objects.get(pk=runner_id)

    def hold(self, runner_id="a-runner"):
        with transaction.atomic():
            leases.hold(runner_id)

    def lapsed(self):
        return [runner.pk for runner in leases.lapsed()]


class LeaseTests(LeaseTestCase):
    def test_a_runner_that_registers_is_known_and_trusted(self):
        runner = self.register(version="2.0")

        self.assertTrue(runner.is_trusted())
        self.assertEqual((runner.host, runner.place), ("here", "boot:1"))
        self.assertEqual((runner.pid, runner.pid_started), (4711, 99))
        self.assertEqual(runner.version, "2.0")
        self.assertEqual(self.lapsed(), [])
        self.hold()

    def test_registering_twice_changes_nothing(self):
        first = self.register(lease=-5)

        again = self.register(lease=600, host="there")

        self.assertEqual(again.host, "here")
        self.assertEqual(again.trusted_until, first.trusted_until)

    def test_a_lease_runs_out_and_is_renewed(self):
        runner = self.register(lease=-1)
        lapsed_before, trusted_before = self.lapsed(), runner.is_trusted()

        renewed = leases.renew("a-runner", 30)

        self.assertEqual((lapsed_before, trusted_before), (["a-runner"], False))
        self.assertTrue(renewed)
        self.assertEqual(self.lapsed(), [])
        self.assertTrue(runner.is_trusted())

    def test_a_runner_that_is_not_known_cannot_renew(self):
        self.assertFalse(leases.renew("nobody", 30))
        self.assertEqual(Runner.objects.count(), 0)

    def test_only_the_lapsed_ones_are_lapsed(self):
        self.register("gone", lease=-0.001)
        self.register("here", lease=600)

        self.assertEqual(self.lapsed(), ["gone"])

    def test_nobody_holds_a_lapsed_lease(self):
        self.register(lease=-1)

        with self.assertRaises(leases.LeaseLost):
            self.hold()

    def test_nobody_holds_a_lease_that_is_not_there(self):
        with self.assertRaises(leases.LeaseLost):
            self.hold()

    def test_who_signs_off_is_forgotten(self):
        self.register()
        self.register("another")

        self.assertTrue(leases.sign_off("a-runner"))
        self.assertEqual(Runner.objects.get().pk, "another")

    def test_who_holds_a_task_cannot_sign_off(self):
        self.register()
        make_claimed_task()

        self.assertFalse(leases.sign_off("a-runner"))
        self.assertTrue(Runner.objects.exists())
        self.assertTrue(Task.objects.filter(locked_by="a-runner").exists())

    def test_signing_off_twice_does_no_harm(self):
        self.assertTrue(leases.sign_off("a-runner"))

    def test_the_lease_is_as_long_as_was_asked_for(self):
        runner = self.register(lease=3600)

        # Both are this host's clock here, and an hour is long.
        left = runner.trusted_until - timezone.now()
        self.assertLess(abs(left - timedelta(hours=1)), timedelta(minutes=5))


@override_settings(USE_TZ=False, TIME_ZONE="Asia/Karachi")
class FarEastLeaseTests(LeaseTestCase):
    """The lease is in UTC, whatever the session's and the project's time zone."""

    def setUp(self):
        if connection.vendor == "mysql":
            with connection.cursor() as cursor:
                cursor.execute("SET time_zone = '+05:00'")
            self.addCleanup(connection.close)

    def test_the_session_is_somewhere_else(self):
        now = {
            "postgresql": "SELECT EXTRACT(timezone FROM now()) / 3600",
            "mysql": "SELECT TIMESTAMPDIFF(HOUR, UTC_TIMESTAMP(), NOW())",
        }
        if connection.vendor in now:
            with connection.cursor() as cursor:
                cursor.execute(now[connection.vendor])
                self.assertEqual(cursor.fetchone()[0], 5)

    def test_a_lease_holds_runs_out_and_is_renewed(self):
        self.register(lease=60)
        self.hold()
        leases.renew("a-runner", -60)
        lapsed = self.lapsed()
        with self.assertRaises(leases.LeaseLost):
            self.hold()
        leases.renew("a-runner", 60)

        self.assertEqual(lapsed, ["a-runner"])
        self.assertEqual(self.lapsed(), [])
        self.assertTrue(Runner.objects.get().is_trusted())

    @override_settings(USE_TZ=True)
    def test_aware_of_time_zones_too(self):
        self.test_a_lease_holds_runs_out_and_is_renewed()

    def test_runners_of_different_time_zones_agree(self):
        self.register("in the east", lease=60)
        with override_settings(USE_TZ=True, TIME_ZONE="UTC"):
            self.register("in greenwich", lease=60)
            self.register("gone", lease=-60)
            seen_from_greenwich = self.lapsed()

        self.assertEqual(seen_from_greenwich, ["gone"])
        self.assertEqual(self.lapsed(), ["gone"])


class DatabaseTimeTests(TransactionTestCase):
    def test_it_goes_on_within_a_transaction(self):
        Runner.objects.create(
            id="a-runner",
            started_at=timezone.now(),
            trusted_until=timezone.now(),
            **ABOUT,
        )
        with transaction.atomic():
            Runner.objects.update(trusted_until=DatabaseTime())
            first = Runner.objects.get().trusted_until
            while Runner.objects.get().trusted_until == first:
                Runner.objects.update(trusted_until=DatabaseTime())

            self.assertGreater(Runner.objects.get().trusted_until, first)
