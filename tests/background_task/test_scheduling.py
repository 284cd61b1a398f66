from datetime import date, datetime, timedelta

from django.contrib.auth.models import User
from django.test import SimpleTestCase, TestCase, TransactionTestCase
from django.utils import timezone

from background_task.models import Task
from background_task.signals import task_created
from background_task.tasks import DBTaskRunner, Tasks, TaskSchedule

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


class CallTests(TestCase):
    """What a call of a decorated function puts into the database."""

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
