"""What is said of a task's tries: by its decorator, by the settings, by both."""

from datetime import timedelta

from django.test import SimpleTestCase, override_settings

from background_task import policies, retries
from background_task.current import CurrentTask
from background_task.limits import SettingError
from background_task.policies import Policy


class PolicyTests(SimpleTestCase):
    def test_it_is_told_as_plain_data_without_what_was_not_said(self):
        said = Policy(
            max_run_time=timedelta(minutes=2),
            memory_limit="512M",
            backoff=[5, timedelta(minutes=1)],
            dont_retry_on=(ValueError,),
        ).said()

        self.assertEqual(
            said,
            {"max_run_time": 120.0, "memory_limit": "512M", "backoff": [5.0, 60.0]},
        )

    def test_an_override_stands_over_the_decorator_and_that_over_the_setting(self):
        policies.declare("shop.policy", {"max_attempts": 3, "backoff": [5.0, 60.0]})

        self.assertEqual(policies.max_attempts("shop.policy"), 3)
        self.assertEqual(policies.max_attempts("shop.without"), 25)
        self.assertEqual(policies.wait_after("shop.policy", 1).total_seconds(), 5)
        for attempts in (2, 3, 40):
            wait = policies.wait_after("shop.policy", attempts)
            self.assertEqual(wait, timedelta(minutes=1))
        self.assertEqual(policies.wait_after("shop.without", 2), retries.backoff(2))
        override = {"shop.policy": {"max_attempts": 7, "backoff": 30}}
        with override_settings(BACKGROUND_TASK_OVERRIDES=override):
            self.assertEqual(policies.max_attempts("shop.policy"), 7)
            self.assertEqual(policies.wait_after("shop.policy", 9).total_seconds(), 30)

    def test_a_wait_is_no_longer_than_the_calendar(self):
        policies.declare("shop.patient", {"backoff": [1e300]})

        wait = policies.wait_after("shop.patient", 1)
        self.assertEqual(wait, retries.LONGEST_BACKOFF)

    def test_what_cannot_be_is_refused(self):
        for said in ({"max_attempts": 0}, {"backoff": "soon"}, {"memory_limit": 5}):
            (name,) = said
            with self.assertRaisesRegex(SettingError, f"^{name} of somebody is "):
                policies.check(said, "{} of somebody")


class Try:
    """What the supervisor's side gives to a task."""

    claim, deadline = "1@now", 100.0

    def __init__(self):
        self.told = []

    def progress(self, done, total, message):
        self.told.append((done, total, message))

    def now(self):
        return 40.0


class CurrentTaskTests(SimpleTestCase):
    def setUp(self):
        self.task, self.of = CurrentTask(), Try()

    def test_where_no_task_runs_it_says_and_does_nothing(self):
        self.task.progress(1, 2, "of three")

        self.assertIsNone(self.task.id)
        self.assertIsNone(self.task.time_left())
        self.assertEqual(repr(self.task), "<no task runs in this process>")

    def test_it_names_the_try_and_knows_its_time(self):
        self.task.enter(7, 2, "7@now", self.of)

        self.assertEqual(repr(self.task), "<try 2 of task 7>")
        self.assertEqual(self.task.claim, "7@now")
        self.assertEqual(self.task.time_left(), 60.0)

    def test_of_much_progress_the_first_and_the_last_are_told(self):
        self.task.enter(7, 2, "7@now", self.of)
        for done in range(1, 10_001):
            self.task.progress(done, 10_000, "x" * 300)
        self.task.leave()

        self.assertEqual(self.of.told[0], (1, 10_000, "x" * 200))
        self.assertEqual(self.of.told[-1], (10_000, 10_000, "x" * 200))
        self.assertLess(len(self.of.told), 5_000)

    def test_what_no_column_can_hold_is_bounded_and_nonsense_is_refused(self):
        self.task.enter(7, 2, "7@now", self.of)
        self.task.progress(10**30, -(10**30))

        self.assertEqual(self.of.told, [(2**63 - 1, -(2**63), "")])
        for nonsense in (1.5, "1", True, None):
            with self.assertRaises(TypeError):
                self.task.progress(nonsense)
        with self.assertRaises(TypeError):
            self.task.progress(1, 2.5)
