from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.test import SimpleTestCase, override_settings

from background_task.retries import backoff, exhausted, next_occurrence

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3600


class BackoffTests(SimpleTestCase):
    def test_the_wait_is_upstreams(self):
        waits = [backoff(attempts).total_seconds() for attempts in (1, 2, 3, 4, 24)]

        self.assertEqual(waits, [6, 21, 86, 261, 331_781])

    def test_the_default_attempts_are_spread_over_three_weeks(self):
        together = sum((backoff(attempts) for attempts in range(1, 25)), timedelta())

        self.assertAlmostEqual(together / timedelta(days=1), 20.4, places=1)

    @override_settings(BACKOFF_MULTIPLIER=2)
    def test_the_exponent_can_be_set(self):
        self.assertEqual(backoff(3), timedelta(seconds=14))

    def test_the_wait_never_leaves_the_calendar(self):
        for exponent in (40, 1e6, 10**400, float("inf")):
            for attempts in (2, 25, 2**31):
                with (
                    self.subTest(exponent, attempts=attempts),
                    override_settings(BACKOFF_MULTIPLIER=exponent),
                ):
                    self.assertGreater(NOON + backoff(attempts), NOON)

    @override_settings(BACKOFF_MULTIPLIER=-1)
    def test_attempts_that_nobody_can_have_made_are_none(self):
        self.assertEqual(backoff(0), backoff(-3))


class ExhaustedTests(SimpleTestCase):
    def test_the_last_attempt_is_the_maximum(self):
        self.assertFalse(exhausted(24, 25))
        self.assertTrue(exhausted(25, 25))
        self.assertTrue(exhausted(26, 25))


class NextOccurrenceTests(SimpleTestCase):
    def test_it_is_counted_from_the_planned_moment(self):
        late = NOON + timedelta(minutes=10)

        self.assertEqual(
            next_occurrence(NOON, HOUR, late, None), NOON + timedelta(hours=1)
        )

    def test_a_task_that_ran_early_still_moves_on(self):
        early = NOON - timedelta(days=1)

        self.assertEqual(
            next_occurrence(NOON, HOUR, early, None), NOON + timedelta(hours=1)
        )

    def test_missed_periods_are_skipped_without_walking(self):
        a_millennium_late = NOON.replace(year=3026) + timedelta(milliseconds=1)

        self.assertEqual(
            next_occurrence(NOON, 1, a_millennium_late, None),
            NOON.replace(year=3026) + timedelta(seconds=1),
        )

    def test_a_planned_moment_that_is_now_counts(self):
        now = NOON + timedelta(hours=5)

        self.assertEqual(next_occurrence(NOON, HOUR, now, None), now)

    def test_the_chain_ends_when_repeat_until_is_reached(self):
        self.assertIsNone(next_occurrence(NOON, HOUR, NOON, NOON))

    def test_the_chain_ends_before_it_would_pass_repeat_until(self):
        until = NOON + timedelta(minutes=59)

        self.assertIsNone(next_occurrence(NOON, HOUR, NOON, until))

    def test_the_chain_ends_with_the_calendar(self):
        for seconds in (10**12, 10**18):
            self.assertIsNone(next_occurrence(NOON, seconds, NOON, None))

    def test_a_day_has_so_many_seconds_whatever_the_clock_on_the_wall_does(self):
        berlin = ZoneInfo("Europe/Berlin")
        eight = datetime(2026, 10, 24, 8, tzinfo=berlin).astimezone(UTC)

        planned = next_occurrence(eight, 24 * HOUR, eight, None)

        self.assertEqual(planned.astimezone(berlin).hour, 7)

    def test_repeat_until_itself_is_still_planned(self):
        until = NOON + timedelta(hours=1)

        self.assertEqual(next_occurrence(NOON, HOUR, NOON, until), until)
