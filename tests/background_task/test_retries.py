from datetime import UTC, datetime, timedelta

from django.test import SimpleTestCase, override_settings

from background_task.retries import backoff, exhausted

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


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
