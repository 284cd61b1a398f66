"""What is said of a task's tries: by its decorator, by the settings, by both."""

from datetime import timedelta

from django.test import SimpleTestCase, TestCase, override_settings
from django.utils import timezone

from background_task import books, policies, retries
from background_task.current import CurrentTask
from background_task.limits import SettingError
from background_task.models import Attempt, CompletedTask, Task
from background_task.policies import Policy

from .tools import make_task


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


class CrashTests(TestCase):
    @override_settings(BACKGROUND_TASK_MAX_CRASHES="1")
    def test_the_number_may_be_a_text_as_an_environment_gives_it(self):
        task = make_task("job")
        task.lock("a-runner")
        claim = books.Claim.of(Task.objects.get())
        evidence = {
            "outcome": Attempt.Outcome.CRASHED,
            "started_at": timezone.now(),
            "ended_at": timezone.now(),
            "exit_code": -11,
            **dict.fromkeys(("host", "runner_id", "output", "stack"), ""),
            "output_size": 0,
        }

        books.record([books.Ending(claim, "Crashed", False, evidence)])

        self.assertIn("Parked", CompletedTask.objects.get().last_error)

    def test_a_repetition_keeps_the_calls_limit_and_a_release_forgets_progress(self):
        task = make_task("job", repeat=60)
        values = {"max_run_time": 5, "progress_done": 3, "progress_message": "x"}
        Task.objects.update(**values)
        task.lock("a-runner")
        books.release(books.Claim.of(Task.objects.get()))
        row = Task.objects.get()
        self.assertEqual((row.progress_done, row.progress_message), (None, None))
        row.lock("a-runner")

        books.succeed(books.Claim.of(Task.objects.get()))

        self.assertEqual(Task.objects.get().max_run_time, 5)


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

    def test_a_task_that_runs_another_is_itself_again_afterwards(self):
        self.task.enter(7, 2, "7@now", self.of)
        with self.task.as_another(8, 1, "8@now"):
            self.task.progress(5)
            self.assertEqual(self.task.id, 8)

        self.task.progress(6)
        self.assertEqual((self.task.id, self.task.claim), (7, "7@now"))
        self.assertEqual(self.of.told, [(6, None, "")])

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
