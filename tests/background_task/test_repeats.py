import itertools
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from django.test import SimpleTestCase, override_settings

from background_task.limits import SettingError
from background_task.repeats import next_repetition, repeat_zone

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3600
DAY = 24 * HOUR
BERLIN = ZoneInfo("Europe/Berlin")


def in_zone(zone):
    return override_settings(BACKGROUND_TASK_REPEAT_TIMEZONE=zone)


class SecondsTests(SimpleTestCase):
    """What a repeat is without a setting: so many seconds, as upstream has it."""

    def planned(self, *args):
        plan = next_repetition(*args)
        return None if plan is None else plan.run_at

    def test_it_is_counted_from_the_planned_moment(self):
        late = NOON + timedelta(minutes=10)

        self.assertEqual(
            self.planned(NOON, HOUR, late, None), NOON + timedelta(hours=1)
        )

    def test_a_task_that_ran_early_still_moves_on(self):
        early = NOON - timedelta(days=1)

        self.assertEqual(
            self.planned(NOON, HOUR, early, None), NOON + timedelta(hours=1)
        )

    def test_missed_periods_are_skipped_without_walking(self):
        a_millennium_late = NOON.replace(year=3026) + timedelta(milliseconds=1)

        self.assertEqual(
            self.planned(NOON, 1, a_millennium_late, None),
            NOON.replace(year=3026) + timedelta(seconds=1),
        )

    def test_a_planned_moment_that_is_now_counts(self):
        now = NOON + timedelta(hours=5)

        self.assertEqual(self.planned(NOON, HOUR, now, None), now)

    def test_the_chain_ends_when_repeat_until_is_reached(self):
        self.assertIsNone(self.planned(NOON, HOUR, NOON, NOON))

    def test_the_chain_ends_before_it_would_pass_repeat_until(self):
        until = NOON + timedelta(minutes=59)

        self.assertIsNone(self.planned(NOON, HOUR, NOON, until))

    def test_the_chain_ends_with_the_calendar(self):
        for seconds in (10**12, 10**18):
            self.assertIsNone(self.planned(NOON, seconds, NOON, None))

    def test_a_day_has_so_many_seconds_whatever_the_clock_on_the_wall_does(self):
        eight = datetime(2026, 10, 24, 8, tzinfo=BERLIN).astimezone(UTC)

        planned = self.planned(eight, DAY, eight, None)

        self.assertEqual(planned.astimezone(BERLIN).hour, 7)

    def test_repeat_until_itself_is_still_planned(self):
        until = NOON + timedelta(hours=1)

        self.assertEqual(self.planned(NOON, HOUR, NOON, until), until)

    def test_what_was_moved_is_counted_from_where_it_was_planned(self):
        planned = NOON - timedelta(minutes=3)

        plan = next_repetition(NOON, DAY, NOON, None, planned)

        self.assertEqual(plan, (planned + timedelta(days=1), None))

    def test_what_was_moved_ahead_still_comes_when_it_was_planned(self):
        for planned, late, following in (
            (timedelta(days=1), timedelta(0), timedelta(days=1)),
            (timedelta(days=20), timedelta(0), timedelta(days=20)),
            (timedelta(hours=1), timedelta(hours=2), timedelta(days=1, hours=1)),
        ):
            for zone in (None, "Europe/Berlin"):
                with self.subTest(planned, zone=zone), in_zone(zone):
                    plan = next_repetition(NOON, DAY, NOON + late, None, NOON + planned)
                    self.assertEqual(plan, (NOON + following, None))


def chain(first, zone, *, days=1, until, late=timedelta(0)):
    """Yield the runs of a chain as the zone's clock shows them, each done `late`."""
    run_at, counted_from = first.replace(tzinfo=zone).astimezone(UTC), None
    while True:
        shown = run_at.astimezone(zone)
        if shown.replace(tzinfo=None) > until:
            return
        yield shown
        run_at, counted_from = next_repetition(
            run_at, days * DAY, run_at + late, None, counted_from
        )


def shown(runs):
    return [f"{run:%m-%d %H:%M}" for run in runs]


class ClockTests(SimpleTestCase):
    """What a repeat of whole days is by the clock of a zone."""

    def assert_chain(self, zone, first, until, expected, **how):
        first, until = map(datetime.fromisoformat, (first, until))
        for late in (timedelta(0), timedelta(seconds=5), timedelta(minutes=5)):
            with self.subTest(late=late), in_zone(zone):
                runs = list(chain(first, ZoneInfo(zone), until=until, late=late, **how))
                self.assertEqual(shown(runs), expected)
        return runs

    def test_a_daily_task_keeps_its_time_when_the_clock_is_set(self):
        self.assert_chain(
            "Europe/Berlin",
            "2026-10-24T08:00",
            "2026-10-26T08:00",
            ["10-24 08:00", "10-25 08:00", "10-26 08:00"],
        )

    def test_a_missing_hour_is_the_next_moment_and_the_day_after_as_ever(self):
        self.assert_chain(
            "Europe/Berlin",
            "2026-03-27T02:30",
            "2026-03-31T00:00",
            ["03-27 02:30", "03-28 02:30", "03-29 03:00", "03-30 02:30"],
        )

    def test_what_is_right_after_the_missing_hour_stays_there(self):
        self.assert_chain(
            "Europe/Berlin",
            "2026-03-28T03:00",
            "2026-03-31T00:00",
            ["03-28 03:00", "03-29 03:00", "03-30 03:00"],
        )

    def test_of_a_double_hour_it_is_the_first(self):
        runs = self.assert_chain(
            "Europe/Berlin",
            "2026-10-24T02:30",
            "2026-10-27T00:00",
            ["10-24 02:30", "10-25 02:30", "10-26 02:30"],
        )

        self.assertEqual([run.fold for run in runs], [0, 0, 0])
        self.assertEqual(runs[1].utcoffset(), timedelta(hours=2))

    def test_one_that_ran_in_the_double_hours_second_does_not_run_twice_that_day(self):
        second = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN).astimezone(UTC)
        first = second - timedelta(hours=1)

        with in_zone("Europe/Berlin"):
            for run_at in (first, second):
                for now in (first, second, second + timedelta(minutes=1)):
                    run, _ = next_repetition(run_at, DAY, now, None)
                    self.assertEqual(shown([run.astimezone(BERLIN)]), ["10-26 02:30"])

    def test_half_an_hour_is_missing_on_lord_howe(self):
        self.assert_chain(
            "Australia/Lord_Howe",
            "2026-10-03T02:15",
            "2026-10-06T00:00",
            ["10-03 02:15", "10-04 02:30", "10-05 02:15"],
        )

    def test_a_whole_day_is_missing_in_apia(self):
        self.assert_chain(
            "Pacific/Apia",
            "2011-12-28T10:00",
            "2012-01-01T12:00",
            ["12-28 10:00", "12-29 10:00", "12-31 00:00", "12-31 10:00", "01-01 10:00"],
        )
        # What the missing day's midnight falls on is not run twice.
        self.assert_chain(
            "Pacific/Apia",
            "2011-12-29T00:00",
            "2012-01-01T12:00",
            ["12-29 00:00", "12-31 00:00", "01-01 00:00"],
        )

    def test_a_week_is_seven_days_of_the_calendar(self):
        self.assert_chain(
            "Europe/Berlin",
            "2026-03-22T02:30",
            "2026-04-06T00:00",
            ["03-22 02:30", "03-29 03:00", "04-05 02:30"],
            days=7,
        )

    def test_after_an_outage_it_goes_on_at_the_next_such_time(self):
        night = datetime(2026, 3, 20, 2, 30, tzinfo=BERLIN).astimezone(UTC)

        with in_zone("Europe/Berlin"):
            for back, expected in (
                (datetime(2026, 3, 29, 1, 59), "03-29 03:00"),
                (datetime(2026, 3, 29, 3, 0), "03-29 03:00"),
                (datetime(2026, 3, 29, 3, 1), "03-30 02:30"),
                (datetime(2026, 10, 25, 2, 29), "10-25 02:30"),
                (datetime(2026, 10, 25, 2, 31), "10-26 02:30"),
                (datetime(2026, 10, 25, 2, 29, fold=1), "10-26 02:30"),
                (datetime(3026, 7, 1), "07-01 02:30"),
            ):
                with self.subTest(back):
                    now = back.replace(tzinfo=BERLIN)
                    run, _ = next_repetition(night, DAY, now, None)
                    self.assertEqual(shown([run.astimezone(BERLIN)]), [expected])
                    self.assertEqual(run.tzinfo, UTC)

    def test_a_retry_does_not_move_it(self):
        planned = datetime(2026, 5, 1, 2, tzinfo=BERLIN).astimezone(UTC)
        retried = planned + timedelta(hours=5)

        with in_zone("Europe/Berlin"):
            plan = next_repetition(retried, DAY, retried, None, planned)
            a_day_late = next_repetition(
                retried + timedelta(days=1), DAY, retried, None, planned
            )

        self.assertEqual(plan, (planned + timedelta(days=1), None))
        self.assertEqual(a_day_late, (planned + timedelta(days=2), None))

    def test_what_is_no_whole_day_is_so_many_seconds(self):
        run_at = datetime(2026, 3, 28, 20, tzinfo=BERLIN).astimezone(UTC)

        with in_zone("Europe/Berlin"):
            for seconds in (1, HOUR, 12 * HOUR, DAY + 1):
                plan = next_repetition(run_at, seconds, run_at, None)
                self.assertEqual(plan, (run_at + timedelta(seconds=seconds), None))

    def test_repeat_until_is_heeded(self):
        run_at = datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN).astimezone(UTC)
        moved = datetime(2026, 3, 29, 3, tzinfo=BERLIN).astimezone(UTC)

        with in_zone("Europe/Berlin"):
            before = moved - timedelta(seconds=1)
            self.assertIsNone(next_repetition(run_at, DAY, run_at, before))
            self.assertEqual(next_repetition(run_at, DAY, run_at, moved)[0], moved)
            self.assertIsNone(next_repetition(run_at, DAY, moved, moved))

    def test_the_chain_ends_with_the_calendar(self):
        late = datetime(9999, 12, 31, 12, tzinfo=UTC)

        for zone in ("Pacific/Apia", "America/New_York"):
            with in_zone(zone):
                self.assertIsNone(next_repetition(late, DAY, late, None))
                self.assertIsNone(next_repetition(NOON, DAY * 10**9, NOON, None))

    @override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
    def test_without_use_tz_moments_are_those_of_time_zone(self):
        night = datetime(2026, 3, 28, 2, 30)

        with in_zone("Europe/Berlin"):
            moved = next_repetition(night, DAY, night, None)
            after = next_repetition(*(moved[0], DAY, moved[0], None, moved[1]))
        with in_zone("America/New_York"):  # whose clock is set on another day
            elsewhere = next_repetition(night, DAY, night, None)

        self.assertEqual(moved, (datetime(2026, 3, 29, 3), night))
        self.assertEqual(after, (datetime(2026, 3, 30, 2, 30), None))
        self.assertEqual(elsewhere, (datetime(2026, 3, 29, 3, 30), None))


class YearsTests(SimpleTestCase):
    """Chains of years in zones whose clocks are set in every way."""

    ZONES = (
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    )
    TIMES = ((0, 0), (0, 30), (1, 15), (2, 0), (2, 15), (2, 30), (3, 0), (23, 59))

    def test_every_run_is_at_its_time_or_where_the_clock_goes_on(self):
        start, end = datetime(2005, 1, 1), datetime(2015, 1, 1)
        for name, (hour, minute), days in itertools.product(
            self.ZONES, self.TIMES, (1, 7)
        ):
            with self.subTest(name, at=f"{hour}:{minute}", days=days), in_zone(name):
                wanted = start.replace(hour=hour, minute=minute)
                runs = chain(wanted, ZoneInfo(name), days=days, until=end)
                for run in runs:
                    self.assert_first(run, wanted)
                    while wanted <= run.replace(tzinfo=None):
                        wanted += timedelta(days=days)
                self.assertGreater(wanted, end)

    def assert_first(self, run, wanted):
        """The clock shows `wanted` then, or is past it, and it was not before."""
        before = (run.astimezone(UTC) - timedelta(seconds=1)).astimezone(run.tzinfo)
        self.assertGreaterEqual(run.replace(tzinfo=None), wanted)
        self.assertLess(before.replace(tzinfo=None), wanted)
        self.assertEqual(run.fold, 0)


class ZoneTests(SimpleTestCase):
    def test_it_may_be_a_name_or_a_tzinfo(self):
        fixed = timezone(timedelta(hours=2))
        for given, zone in (
            (None, None),
            ("Europe/Berlin", BERLIN),
            (BERLIN, BERLIN),
            (fixed, fixed),
        ):
            with self.subTest(given), in_zone(given):
                self.assertEqual(repeat_zone(), zone)

    def test_what_is_none_is_refused(self):
        class OfPytz(tzinfo):
            def localize(self, moment): ...

        for wrong in ("", "Berlin", "../etc/passwd", "Europe", 3600, True, OfPytz()):
            with self.subTest(wrong), in_zone(wrong):
                with self.assertRaises(SettingError) as raised:
                    repeat_zone()
                self.assertIn(
                    f"BACKGROUND_TASK_REPEAT_TIMEZONE is {wrong!r}: it must be",
                    str(raised.exception),
                )

    def test_what_was_meant_is_named(self):
        with (
            in_zone("Europe/Berln"),
            self.assertRaisesRegex(SettingError, "did you mean 'Europe/Berlin'"),
        ):
            repeat_zone()
