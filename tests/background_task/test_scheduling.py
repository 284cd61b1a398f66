import functools
import re
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.contrib.auth.models import User
from django.db import connection
from django.test import SimpleTestCase, TestCase, TransactionTestCase
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy

from background_task import books
from background_task.models import CompletedTask, Task
from background_task.signals import task_created
from background_task.tasks import DBTaskRunner, Tasks, TaskSchedule
from tests.app.models import Country, Customer, Profile, Visitor

from .tools import heard, make_claimed_task, receiver

MINUTE = timedelta(minutes=1)
MOMENT = datetime(2030, 1, 1, tzinfo=timezone.get_default_timezone())


class TaskScheduleTests(SimpleTestCase):
    def assert_about_now(self, moment, plus=timedelta(0)):
        self.assertLess(abs(moment - timezone.now() - plus), timedelta(seconds=30))

    def test_every_form_says_the_same(self):
        self.assertEqual(TaskSchedule.create(None), TaskSchedule())
        self.assertEqual(TaskSchedule.create(5), TaskSchedule(run_at=5))
        self.assertEqual(TaskSchedule.create(MINUTE), TaskSchedule(run_at=MINUTE))
        self.assertEqual(TaskSchedule.create(MOMENT), TaskSchedule(run_at=MOMENT))
        self.assertEqual(
            TaskSchedule.create({"run_at": 5, "priority": 2, "action": 1}),
            TaskSchedule(run_at=5, priority=2, action=1),
        )
        schedule = TaskSchedule(run_at=5)
        self.assertIs(TaskSchedule.create(schedule), schedule)

    def test_what_is_not_said_has_defaults(self):
        schedule = TaskSchedule()

        self.assert_about_now(schedule.run_at)
        self.assertEqual(schedule.priority, 0)
        self.assertEqual(schedule.action, TaskSchedule.SCHEDULE)

    def test_times_count_from_now(self):
        self.assert_about_now(TaskSchedule(60).run_at, MINUTE)
        self.assert_about_now(TaskSchedule(60.5).run_at, MINUTE)
        self.assert_about_now(TaskSchedule(MINUTE).run_at, MINUTE)
        self.assertEqual(TaskSchedule(MOMENT).run_at, MOMENT)

    def test_what_is_no_schedule_is_refused(self):
        for wrong in ("60", True, False, date(2030, 1, 1), object(), [60]):
            with self.subTest(wrong):
                with self.assertRaisesRegex(TypeError, "A schedule is"):
                    TaskSchedule.create(wrong)
                with self.assertRaisesRegex(TypeError, "A schedule is"):
                    TaskSchedule.create({"run_at": wrong})

    def test_a_dict_says_what_is_known_and_nothing_else(self):
        with self.assertRaisesRegex(TypeError, "nothing of 'queue', 'run_att'"):
            TaskSchedule.create({"run_att": 5, "priority": 1, "queue": "mail"})

    def test_merging_fills_what_was_not_said(self):
        default = TaskSchedule(run_at=60, priority=2, action=1)

        self.assertEqual(TaskSchedule().merge(default), default)
        self.assertEqual(TaskSchedule(0, 0, 0).merge(default), TaskSchedule(0, 0, 0))

    def test_it_can_be_read(self):
        self.assertEqual(
            repr(TaskSchedule(run_at=10, priority=0)),
            "TaskSchedule(run_at=10, priority=0)",
        )

    def test_it_compares_with_its_kind_only(self):
        self.assertNotEqual(TaskSchedule(run_at=1), TaskSchedule(run_at=2))
        self.assertNotEqual(TaskSchedule(), None)
        self.assertEqual(len({TaskSchedule(1), TaskSchedule(1)}), 1)


class CallTestCase(TestCase):
    def setUp(self):
        self.tasks = Tasks()

    def decorate(self, **options):
        @self.tasks.background(name="job", **options)
        def job(*args, **kwargs):
            raise AssertionError("only to be run later")

        return job

    def assert_runs_in(self, task, wait):
        difference = task.run_at - timezone.now() - wait
        self.assertLess(abs(difference), timedelta(seconds=30))


class CallTests(CallTestCase):
    """What a call of a decorated function puts into the database."""

    def test_a_task_is_saved_and_returned(self):
        task = self.decorate()(1, two=2)

        row = Task.objects.get()
        self.assertEqual(row, task)
        self.assertEqual((row.task_name, row.task_params), ("job", '[[1], {"two": 2}]'))
        self.assert_runs_in(row, timedelta(0))

    def test_what_is_about_the_task_does_not_reach_the_function(self):
        creator = User.objects.create(username="ada")

        task = self.decorate()(
            1,
            schedule=60,
            priority=7,
            queue="q",
            verbose_name="Job",
            creator=creator,
            repeat=Task.DAILY,
            repeat_until=MOMENT,
            remove_existing_tasks=True,
        )

        self.assertEqual(task.task_params, "[[1], {}]")
        self.assert_runs_in(task, MINUTE)
        self.assertEqual((task.priority, task.queue), (7, "q"))
        self.assertEqual((task.verbose_name, task.creator), ("Job", creator))
        self.assertEqual((task.repeat, task.repeat_until), (Task.DAILY, MOMENT))

    def test_the_decorator_says_what_the_call_does_not(self):
        job = self.decorate(schedule={"run_at": 60, "priority": 2}, queue="q")

        task = job()
        other = job(schedule=120, queue="other")

        self.assert_runs_in(task, MINUTE)
        self.assertEqual((task.priority, task.queue), (2, "q"))
        self.assert_runs_in(other, 2 * MINUTE)
        self.assertEqual((other.priority, other.queue), (2, "other"))

    def test_zero_is_now_whatever_the_decorator_says(self):
        job = self.decorate(schedule=60)

        for zero in (0, 0.0, timedelta(0), {"run_at": 0}):
            with self.subTest(zero):
                self.assert_runs_in(job(schedule=zero), timedelta(0))

    def test_an_empty_schedule_says_nothing(self):
        job = self.decorate(schedule=60)

        for empty in (None, {}, TaskSchedule()):
            with self.subTest(empty):
                self.assert_runs_in(job(schedule=empty), MINUTE)

    def test_a_priority_beats_the_schedules(self):
        task = self.decorate()(schedule=TaskSchedule(priority=1), priority=5)

        self.assertEqual(task.priority, 5)

    def test_a_wrong_schedule_is_refused_and_nothing_saved(self):
        with self.assertRaises(TypeError):
            self.decorate()(schedule="tomorrow")

        self.assertEqual(Task.objects.count(), 0)

    def test_removing_existing_tasks_leaves_the_new_one(self):
        job = self.decorate(remove_existing_tasks=True)
        job(1)
        running = job(2).lock("me")

        again, other = job(1), job(2)

        self.assertCountEqual(Task.objects.all(), [running, again, other])

    def test_the_call_can_keep_what_the_decorator_removes(self):
        job = self.decorate(remove_existing_tasks=True)

        job(1)
        job(1, remove_existing_tasks=False)

        self.assertEqual(Task.objects.count(), 2)

    def test_task_created_is_sent(self):
        with heard() as calls:
            task = self.decorate()()

        self.assertEqual(
            [(name, sender, named["task"]) for name, sender, named in calls],
            [("task_created", DBTaskRunner, task)],
        )


class SignatureTests(TestCase):
    """What the function could never be called with is refused at the call."""

    def setUp(self):
        self.tasks = Tasks()

        @self.tasks.background(name="job")
        def job(one, two=2, *, three=3):
            pass

        self.job = job

    def test_arguments_that_do_not_fit(self):
        for args, kwargs, why in (
            ((), {}, "missing a required argument: 'one'"),
            ((1, 2, 3), {}, "too many positional arguments"),
            ((1,), {"four": 4}, "got an unexpected keyword argument 'four'"),
            ((1,), {"one": 1}, "multiple values for argument 'one'"),
        ):
            with (
                self.subTest(args=args, kwargs=kwargs),
                self.assertRaisesMessage(TypeError, f"job(): {why}"),
            ):
                self.job(*args, **kwargs)

        self.assertEqual(Task.objects.count(), 0)

    def test_arguments_that_fit(self):
        self.job(1)
        self.job(1, 2, three=3, schedule=60, priority=1)
        self.job(one=1, two=2)

        self.assertEqual(Task.objects.count(), 3)

    def test_a_name_that_is_the_tasks_own_never_reaches_the_function(self):
        post = self.tasks.background(name="post")(lambda queue: None)

        with self.assertRaisesMessage(
            TypeError,
            "post(): missing a required argument: 'queue' (queue= is about the task, "
            "and does not reach the function)",
        ):
            post(queue="mail")

    def test_a_wrapper_takes_what_it_says_itself(self):
        def with_a_client(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function("client", *args)

            return wrapper

        call = self.tasks.background(name="call")(
            with_a_client(lambda client, number: None)
        )
        part = self.tasks.background(name="part")(functools.partial(max, 1))

        self.assertIsNotNone(call(1))
        self.assertIsNotNone(part(2))

    def test_what_has_no_signature_is_let_through(self):
        self.assertIsNotNone(self.tasks.background(name="built in")(max)(1, 2))


class EdgeTests(CallTestCase):
    """What could not be stored is refused at the call, and nothing is lost."""

    def setUp(self):
        super().setUp()
        self.job = self.decorate()
        self.waiting = self.job(1)

    def assert_refused(self, kind, pattern, **named):
        with self.assertRaisesRegex(kind, pattern):
            self.job(1, remove_existing_tasks=True, **named)

        # Also says that the transaction around the call is still good.
        self.assertEqual(Task.objects.get(), self.waiting)

    def test_texts_that_are_too_long(self):
        for name, limit in (("queue", 190), ("verbose_name", 255)):
            with self.subTest(name):
                self.assertEqual(
                    len(getattr(self.job(2, **{name: "é" * limit}), name)), limit
                )
                Task.objects.exclude(pk=self.waiting.pk).delete()
                self.assert_refused(
                    ValueError,
                    f"{name} has {limit + 1} characters, and {limit} are the most",
                    **{name: "é" * (limit + 1)},
                )

    def test_a_name_that_is_too_long(self):
        self.tasks.background(name="n" * 190)(print)()
        with self.assertRaisesRegex(ValueError, "task_name has 191 characters"):
            self.tasks.background(name="n" * 191)(print)()

        self.assertEqual(Task.objects.count(), 2)

    def test_texts_may_be_translated_lazily(self):
        task = self.job(verbose_name=gettext_lazy("Delete"))

        self.assertEqual(str(Task.objects.get(pk=task.pk)), "Delete")

    def test_priorities_that_are_no_numbers_of_the_column(self):
        _, most = connection.ops.integer_field_range("IntegerField")

        self.assertEqual(self.job(2, priority=most).priority, most)
        Task.objects.exclude(pk=self.waiting.pk).delete()
        self.assert_refused(
            ValueError, f"priority is {most + 1}: .* {most}", priority=most + 1
        )
        self.assert_refused(ValueError, f"priority is {-(10**30)}", priority=-(10**30))
        self.assert_refused(ValueError, "priority is None", priority=None)
        self.assert_refused(ValueError, "'priority' expected a number", priority="high")

    def test_repeats_that_are_no_numbers_of_seconds(self):
        self.assert_refused(
            TypeError, "repeat is True: it must be seconds", repeat=True
        )
        self.assert_refused(TypeError, "it must be seconds", repeat=MINUTE)
        self.assert_refused(ValueError, "'repeat' expected a number", repeat="daily")
        self.assert_refused(
            ValueError, f"repeat is {2**63}: .* {2**63 - 1}", repeat=2**63
        )

    def test_repeats_that_upstream_took(self):
        for repeat, seconds in (
            (None, 0),
            (0, 0),
            (False, 0),
            ("", 0),
            ("60", 60),
            (60.0, 60),
            (Decimal(60), 60),
            (-60, -60),
        ):
            with self.subTest(repeat):
                task = self.job(2, repeat=repeat)

                task.refresh_from_db()
                self.assertEqual(task.repeat, seconds)
                self.assertEqual(task.is_repeating_task(), seconds > 0)

    def test_what_only_looks_like_a_repeat_runs_once_as_ever_and_is_told(self):
        for said, why in (
            ({"repeat": -5}, "repeat is -5, and 1 is the least that repeats"),
            ({"repeat": "-5"}, "repeat is -5, and 1 is the least that repeats"),
            (
                {"repeat_until": MOMENT},
                f"repeat_until is {MOMENT}, and there is no repeat",
            ),
        ):
            with self.subTest(**said):
                with self.assertLogs("background_task", "WARNING") as logs:
                    task = self.job(2, **said)

                task.refresh_from_db()
                self.assertFalse(task.is_repeating_task())
                self.assertIn(f"Task {task.task_name} runs once: {why}", logs.output[0])

    def test_a_repeat_is_not_told_of(self):
        with self.assertNoLogs("background_task"):
            self.job(2)
            self.job(2, repeat=60)
            self.job(2, repeat="60", repeat_until=MOMENT)

    def test_an_end_of_repetitions_that_is_no_moment(self):
        for wrong in ("soon", "2030-02-30", 60, MINUTE):
            with self.subTest(wrong):
                text = re.escape(f"repeat_until is {wrong!r}: it must be a datetime")
                self.assert_refused(ValueError, text, repeat_until=wrong)

    def test_a_runner_is_told_no_moment(self):
        with self.assertRaisesRegex(ValueError, "run_at is 60"):
            DBTaskRunner().schedule("job", (1,), {}, 60, remove_existing_tasks=True)

        self.assertEqual(Task.objects.get(), self.waiting)

    def test_moments_may_be_written_as_text_where_upstream_took_it(self):
        text = MOMENT.isoformat()
        task = self.job(2, repeat=60, repeat_until=text)
        other = DBTaskRunner().schedule("job", (3,), {}, run_at=text)

        self.assertEqual((task.repeat_until, other.run_at), (MOMENT, MOMENT))

    def test_naive_moments_are_warned_of_and_local(self):
        naive = MOMENT.replace(tzinfo=None)

        for named in ({"schedule": naive}, {"schedule": {"run_at": naive}}):
            with self.subTest(**named):
                with self.assertWarnsRegex(RuntimeWarning, "naive datetime"):
                    task = self.job(2, **named)
                task.refresh_from_db()
                self.assertEqual(task.run_at, MOMENT)
        with self.assertWarnsRegex(RuntimeWarning, "naive datetime"):
            task = self.job(2, repeat=60, repeat_until=naive)
        task.refresh_from_db()
        self.assertEqual(task.repeat_until, MOMENT)

    def test_times_past_the_calendars_end(self):
        for schedule in (1e18, float("inf"), timedelta.max):
            with self.subTest(schedule):
                self.assert_refused(OverflowError, "", schedule=schedule)
        self.assert_refused(ValueError, "", schedule=float("nan"))

    def test_arguments_that_are_not_json(self):
        text = ": Object of type set is not JSON serializable"
        self.assert_refused(TypeError, text, argument={1, 2})


class CreatorTests(CallTestCase):
    def test_keys_that_are_numbers(self):
        user = User.objects.create(username="ada")
        customer = Customer.objects.create(name="Bob")
        profile = Profile.objects.create(user=user)
        country = Country.objects.create(code="42")
        for creator in (user, customer, profile, country):
            with self.subTest(creator):
                task = self.decorate()(creator=creator)
                completed = task.create_completed_task()

                self.assertEqual(Task.objects.created_by(creator).get(), task)
                self.assertEqual(Task.objects.get(pk=task.pk).creator, creator)
                self.assertEqual(
                    CompletedTask.objects.created_by(creator).get(), completed
                )
        self.assertEqual(customer.tasks.get().creator, customer)

    def test_a_lazy_object_such_as_the_requests_user(self):
        user = User.objects.create(username="ada")

        task = self.decorate()(creator=SimpleLazyObject(lambda: user))

        self.assertEqual(Task.objects.created_by(user).get(), task)

    def test_keys_that_are_no_numbers_are_refused(self):
        for creator, model, key in (
            (Visitor.objects.create(), "app.Visitor", "UUIDField 'id'"),
            (Country.objects.create(code="de"), "app.Country", "CharField 'code'"),
            (Country.objects.create(code="007"), "app.Country", "CharField 'code'"),
        ):
            with self.subTest(creator):
                pattern = f"{model} .* can't be the creator .*{key}.*argument"
                with self.assertRaisesRegex(ValueError, pattern):
                    self.decorate()(creator=creator)
        self.assertEqual(Task.objects.count(), 0)

    def test_a_number_that_the_column_cannot_hold_is_refused(self):
        _, most = connection.ops.integer_field_range("PositiveIntegerField")

        self.decorate()(creator=Customer(pk=most))
        with self.assertRaisesRegex(ValueError, f"number from 0 to {most}"):
            self.decorate()(creator=Customer(pk=most + 1))
        with self.assertRaisesRegex(ValueError, f"number from 0 to {most}"):
            self.decorate()(creator=Customer(pk=-1))

        self.assertEqual(Task.objects.count(), 1)

    def test_an_object_that_is_not_saved_is_refused(self):
        with self.assertRaisesRegex(ValueError, "unsaved"):
            self.decorate()(creator=Customer(name="Bob"))

        self.assertEqual(Task.objects.count(), 0)


class ReservedNameTests(CallTestCase):
    def test_now_hands_everything_to_the_function(self):
        @self.tasks.background(name="job")
        def job(number, queue="none", schedule=None, **others):
            return number, queue, schedule, others

        returned = job.now(1, queue="q", schedule=5, repeat=60)

        self.assertEqual(returned, (1, "q", 5, {"repeat": 60}))
        self.assertEqual(Task.objects.count(), 0)

    def test_now_knows_no_other_keywords_than_the_function(self):
        @self.tasks.background(name="job", schedule=60)
        def job():
            return "done"

        self.assertEqual(job.now(), "done")
        with self.assertRaises(TypeError):
            job.now(schedule=5)

    def test_a_parameter_of_a_reserved_name_is_reached_by_position(self):
        received = []

        @self.tasks.background(name="job")
        def job(queue="nothing"):
            received.append(queue)

        job("red")
        job(queue="q")
        while self.tasks.run_next_task():
            pass

        self.assertEqual(received, ["red", "nothing"])

    def test_an_action_is_said_in_the_schedule_only(self):
        task = self.decorate()(action=TaskSchedule.CHECK_EXISTING)

        self.assertEqual(task.params(), ([], {"action": 2}))


class ActionTests(TestCase):
    def setUp(self):
        tasks = Tasks()

        @tasks.background(name="job", queue="q")
        def job(*args):
            raise AssertionError("only to be run later")

        self.job = job

    def reschedule(self, *args, **kwargs):
        schedule = TaskSchedule(60, 9, TaskSchedule.RESCHEDULE_EXISTING)
        return self.job(*args, schedule=schedule, **kwargs)

    def check(self, *args, **kwargs):
        schedule = {"action": TaskSchedule.CHECK_EXISTING}
        return self.job(*args, schedule=schedule, **kwargs)

    def test_rescheduling_moves_the_waiting_task(self):
        task = self.job(1)

        with heard() as calls:
            self.assertIsNone(self.reschedule(1))

        row = Task.objects.get()
        self.assertEqual((row.pk, row.priority), (task.pk, 9))
        self.assertGreater(row.run_at, task.run_at)
        self.assertEqual(calls, [])

    def test_checking_leaves_the_waiting_task_alone(self):
        task = self.job(1)

        self.assertIsNone(self.check(1, priority=9))

        row = Task.objects.get()
        self.assertEqual((row.run_at, row.priority), (task.run_at, 0))

    def test_without_a_waiting_task_there_is_a_new_one(self):
        for act in (self.reschedule, self.check):
            with self.subTest(act.__name__):
                Task.objects.all().delete()
                make_claimed_task("job", (1,), queue="q")  # it runs, so does not wait
                self.job(2)
                self.job(1, queue="other")

                self.assertIsNotNone(act(1))

    def test_every_waiting_task_of_its_kind_is_moved(self):
        for _ in range(2):
            self.job(1)

        self.assertIsNone(self.reschedule(1))

        self.assertEqual(Task.objects.filter(priority=9).count(), 2)

    def test_a_task_that_was_abandoned_does_not_wait(self):
        for act in (self.reschedule, self.check):
            with self.subTest(act.__name__):
                Task.objects.all().delete()
                _, claim = make_claimed_task("job", (1,), queue="q")
                books.abandon(claim, "oops")

                self.assertIsNotNone(act(1))

    def test_the_runner_takes_an_action_without_a_moment(self):
        task = self.job(1, schedule=60)

        found = DBTaskRunner().schedule(
            "job", (1,), {}, action=TaskSchedule.RESCHEDULE_EXISTING
        )

        self.assertIsNone(found)
        self.assertLess(Task.objects.get().run_at, task.run_at)

    def test_without_a_queue_every_queue_counts(self):
        self.job(1, queue="other")

        self.assertIsNone(self.check(1, queue=None))


class RemoveTransactionTests(TransactionTestCase):
    def test_what_was_removed_is_back_if_the_new_task_cannot_be_saved(self):
        tasks = Tasks()
        job = tasks.background(name="job")(print)
        task = job(1)

        with self.assertRaises(ValueError):
            job(1, priority="high", remove_existing_tasks=True)

        self.assertEqual(Task.objects.get(), task)

    def test_a_raising_receiver_of_task_created_is_heard_but_the_task_stays(self):
        def object_to(**kwargs):
            raise RuntimeError("no")

        job = Tasks().background(name="job")(print)

        with receiver(task_created, object_to), self.assertRaises(RuntimeError):
            job(1)

        self.assertEqual(Task.objects.count(), 1)
