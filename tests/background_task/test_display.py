from datetime import UTC, datetime, timedelta

from django.test import SimpleTestCase, override_settings

from background_task.display import (
    LongText,
    absolute,
    duration,
    memory,
    nearest_in_zone,
    relative,
    size,
    when,
)
from background_task.management.commands._family import moment

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class DisplayTests(SimpleTestCase):
    def test_durations_have_two_units_at_most(self):
        for seconds, text in (
            (None, None),
            (-1, "0 ms"),
            (0.0314, "31 ms"),
            (1.26, "1.3 s"),
            (59.4, "59 s"),
            (59.9, "1 min"),
            (75, "1 min 15 s"),
            (3600, "1 h"),
            (3725, "1 h 2 min"),
            (86400, "1 d"),
            (200_000, "2 d 7 h"),
        ):
            with self.subTest(seconds):
                self.assertEqual(duration(seconds), text)

    def test_what_a_task_holds_is_not_told_to_the_byte(self):
        for amount, text in (
            (None, None),
            (0, "under 1 MiB"),
            (2**20 - 1, "under 1 MiB"),
            (2**20, "1.0 MiB"),
            (3 * 2**30, "3.0 GiB"),
        ):
            self.assertEqual(memory(amount), text)

    def test_sizes_have_few_digits(self):
        for amount, text in (
            (None, None),
            (0, "0 B"),
            (1023, "1,023 B".replace(",", "")),
            (5000, "4.9 KiB"),
            (61.34 * 1024**2, "61.3 MiB"),
            (512 * 1024**2, "512 MiB"),
            (3 * 1024**4, "3.0 TiB"),
        ):
            with self.subTest(amount):
                self.assertEqual(size(amount), text)

    def test_moments_are_told_from_now(self):
        for seconds, text in (
            (0.4, "now"),
            (5, "in 5 s"),
            (-5, "5 s ago"),
            (300, "in 5 min"),
            (-90_000, "1 d 1 h ago"),
        ):
            with self.subTest(seconds):
                self.assertEqual(relative(NOW + timedelta(seconds=seconds), NOW), text)

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_and_absolutely_in_the_current_time_zone(self):
        self.assertEqual(absolute(NOW), "2026-03-01 13:00:00 CET")
        self.assertEqual(absolute(NOW.replace(tzinfo=None)), "2026-03-01 12:00:00")
        self.assertIn(">now <small>2026-03-01 13:00:00 CET<", when(NOW, NOW))
        self.assertIsNone(when(None))

    def test_what_the_zone_has_beyond_the_calendar_is_told_in_utc(self):
        last, first = (
            end.replace(tzinfo=UTC, microsecond=0)
            for end in (datetime.max, datetime.min)
        )
        with override_settings(TIME_ZONE="Europe/Berlin"):
            self.assertEqual(absolute(last), "9999-12-31 23:59:59 UTC")
            self.assertIn("<small>9999-12-31 23:59:59 UTC", when(last, NOW))
            self.assertEqual(moment(last), "9999-12-31 23:59:59")
            self.assertEqual(nearest_in_zone(last), last - timedelta(hours=1))
            self.assertEqual(nearest_in_zone(NOW), NOW)
        with override_settings(TIME_ZONE="America/New_York"):
            self.assertRegex(absolute(first), r"^0*1-01-01 00:00:00 UTC$")
            self.assertIsNotNone(when(first, NOW))
            self.assertIsNotNone(moment(first))
            self.assertEqual(nearest_in_zone(first).replace(tzinfo=UTC), first)

    def test_a_text_is_long_by_its_lines_or_its_letters(self):
        self.assertFalse(LongText("", "short\n" * 25).is_long)
        self.assertTrue(LongText("", "short\n" * 26).is_long)
        self.assertTrue(LongText("", "x" * 2001).is_long)
