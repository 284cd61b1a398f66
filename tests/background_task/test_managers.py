from datetime import timedelta

from django.contrib.auth.models import User
from django.test import TestCase, override_settings
from django.utils import timezone

from background_task.models import CompletedTask, Task

from .tools import make_claimed_task, make_runner, make_task

LONG_AGO = timedelta(hours=2)  # longer than MAX_RUN_TIME


def age(task):
    """Make the task's lock older than MAX_RUN_TIME."""
    Task.objects.filter(pk=task.pk).update(locked_at=timezone.now() - LONG_AGO)


class NewTaskTests(TestCase):
    def test_params_and_hash_are_upstreams_byte_for_byte(self):
        # As django-background-tasks 1.2.8 writes them.
        written = [
            (
                ("mytask", None, None),
                "[[], {}]",
                "5cacd7d4f2c0115060ced6538a800cf0eb0bd0d1",
            ),
            (
                ("mytask", (1), {}),
                "[1, {}]",
                "bbca61ae3bf3355fb67a5213f8cbce47c31da1e1",
            ),
            (
                ("mytask", (1, "é", [2]), {"b": 1, "a": None}),
                r'[[1, "\u00e9", [2]], {"a": null, "b": 1}]',
                "51a361caa73d2963d3af13ed25c5d0bc639557d8",
            ),
            (
                ("app.tasks.ünï", ("\x00€", 1.5, True), {"z": {"k": (1, 2)}}),
                r'[["\u0000\u20ac", 1.5, true], {"z": {"k": [1, 2]}}]',
                "75e843fb9dd6f0d9cb3a07f9d2fdc9a48b781bb6",
            ),
        ]
        for arguments, params, digest in written:
            with self.subTest(arguments):
                task = Task.objects.new_task(*arguments)

                self.assertEqual(task.task_params, params)
                self.assertEqual(task.task_hash, digest)

    def test_what_is_no_creator_and_no_period_is_refused(self):
        for wrong, text in (
            ({"creator": "ada"}, "creator is 'ada': it must be a model's object"),
            ({"repeat": timedelta(days=1)}, "it must be seconds, such as Task.DAILY"),
        ):
            refused = self.assertRaisesRegex((TypeError, ValueError), text)
            with self.subTest(wrong), refused:
                Task.objects.new_task("job", **wrong)

    def test_it_is_not_saved(self):
        task = Task.objects.new_task("mytask")

        self.assertIsNone(task.pk)
        self.assertEqual(Task.objects.count(), 0)

    def test_an_empty_queue_is_none(self):
        self.assertIsNone(Task.objects.new_task("mytask", queue="").queue)

    def test_arguments_that_json_cannot_hold_are_refused(self):
        with self.assertRaises(TypeError):
            Task.objects.new_task("mytask", (object(),))

    def test_keys_of_several_types_are_accepted(self):
        mixed = Task.objects.new_task("mytask", (), {"a": {1: "x", "b": None, None: 2}})
        text = Task.objects.new_task(
            "mytask", (), {"a": {"1": "x", "b": None, "null": 2}}
        )

        self.assertEqual(mixed.params(), text.params())
        self.assertEqual(mixed.task_hash, text.task_hash)

    def test_keys_that_are_numbers_keep_upstreams_order(self):
        task = Task.objects.new_task("mytask", ({10: "x", 9: "y"},))

        self.assertEqual(task.task_params, '[[{"9": "y", "10": "x"}], {}]')

    def test_numbers_that_json_does_not_know_come_back(self):
        task = make_task("mytask", (float("inf"), float("nan")))

        self.assertEqual(task.task_params, "[[Infinity, NaN], {}]")
        self.assertEqual(repr(task.params()[0]), "[inf, nan]")

    def test_arguments_of_a_megabyte(self):
        task = make_task("mytask", ("ü" * 200_000,))

        self.assertEqual(Task.objects.get(pk=task.pk).params()[0], ["ü" * 200_000])

    def test_removing_existing_tasks_spares_abandoned_ones(self):
        abandoned = make_task("mytask", (1,), failed_at=timezone.now())

        Task.objects.new_task("mytask", (1,), remove_existing_tasks=True)

        self.assertEqual(Task.objects.get(), abandoned)

    def test_removing_existing_tasks_spares_locked_and_other_ones(self):
        make_task("mytask", (1,), queue="elsewhere")
        locked, _ = make_claimed_task("mytask", (1,))
        other = make_task("mytask", (2,))

        Task.objects.new_task("mytask", (1,), remove_existing_tasks=True)

        self.assertCountEqual(Task.objects.all(), [locked, other])

    def test_tasks_are_found_and_dropped_by_name_and_arguments(self):
        task = make_task("mytask", (1,), {"a": 2})
        make_task("mytask", (1,), {"a": 3})

        self.assertEqual(Task.objects.get_task("mytask", [1], {"a": 2}).get(), task)
        deleted = Task.objects.drop_task("mytask", [1], {"a": 2})
        self.assertEqual(deleted, (1, {"background_task.Task": 1}))
        self.assertEqual(Task.objects.count(), 1)

    def test_dropping_takes_running_tasks_too(self):
        make_claimed_task("mytask", (1,))

        self.assertEqual(Task.objects.drop_task("mytask", (1,))[0], 1)


class AvailableTests(TestCase):
    def test_the_highest_priority_comes_first_and_then_the_earliest(self):
        now = timezone.now()
        late = make_task(priority=1, run_at=now - timedelta(minutes=1))
        early = make_task(priority=1, run_at=now - timedelta(minutes=2))
        urgent = make_task(priority=5)
        lowly = make_task(priority=-5)

        available = Task.objects.find_available()

        self.assertSequenceEqual(available, [urgent, early, late, lowly])
        self.assertEqual((available.first(), available[0]), (urgent, urgent))
        self.assertEqual(available.count(), 4)

    @override_settings(BACKGROUND_TASK_PRIORITY_ORDERING="ASC")
    def test_the_lowest_number_comes_first_in_niceness_order(self):
        nasty = make_task(priority=-20)
        nice = make_task(priority=19)

        self.assertSequenceEqual(Task.objects.find_available(), [nasty, nice])

    def test_future_and_failed_and_held_tasks_are_not_available(self):
        make_task(run_at=timezone.now() + timedelta(minutes=1))
        make_task(failed_at=timezone.now())
        make_claimed_task()

        self.assertEqual(Task.objects.find_available().count(), 0)

    def test_a_queue_narrows_and_no_queue_means_all(self):
        named = make_task(queue="named")
        nameless = make_task()

        self.assertSequenceEqual(Task.objects.find_available("named"), [named])
        self.assertCountEqual(Task.objects.find_available(), [named, nameless])

    @override_settings(BACKGROUND_TASK_RUN_ASYNC=True, BACKGROUND_TASK_ASYNC_THREADS=1)
    def test_dead_locks_take_no_slots(self):
        dead, _ = make_claimed_task()
        age(dead)
        fresh = make_task()

        self.assertCountEqual(Task.objects.find_available(), [dead, fresh])

    def test_failed_tasks_are_those_marked_so(self):
        failed = make_task(failed_at=timezone.now())
        make_task()

        self.assertEqual(Task.objects.failed().get(), failed)


class LockTests(TestCase):
    def assert_unlocked(self, unlocked):
        now = timezone.now()
        self.assertEqual(Task.objects.unlocked(now).exists(), unlocked)
        self.assertEqual(Task.objects.locked(now).exists(), not unlocked)

    def test_a_task_that_nobody_holds_is_unlocked(self):
        make_task()

        self.assert_unlocked(True)

    def test_a_task_that_somebody_holds_is_locked(self):
        make_claimed_task(locked_by="4711")

        self.assert_unlocked(False)

    def test_a_pids_lock_expires_after_max_run_time(self):
        task, _ = make_claimed_task(locked_by="4711")
        age(task)

        self.assert_unlocked(True)

    def test_a_runners_lock_does_not_expire_while_it_has_a_row(self):
        runner = make_runner(trusted_for=-timedelta(days=1))
        task, _ = make_claimed_task(locked_by=runner.id)
        age(task)

        self.assert_unlocked(False)
        self.assertIsNone(task.lock("another"))

    def test_a_runners_lock_expires_when_its_row_is_gone(self):
        runner = make_runner()
        task, _ = make_claimed_task(locked_by=runner.id)
        age(task)

        runner.delete()

        self.assert_unlocked(True)


class CreatedByTests(TestCase):
    def test_the_creator_may_be_any_object(self):
        ada = User.objects.create(username="ada")
        bob = User.objects.create(username="bob")
        task = make_task(creator=ada)
        make_task(creator=bob)
        completed = task.create_completed_task()

        self.assertEqual(Task.objects.created_by(ada).get(), task)
        self.assertEqual(CompletedTask.objects.created_by(ada).get(), completed)
        self.assertEqual(completed.creator, ada)
        self.assertFalse(CompletedTask.objects.created_by(bob).exists())


class CompletedTaskTests(TestCase):
    def setUp(self):
        now = timezone.now()
        self.new = self.completed()
        self.old = self.completed(run_at=now - LONG_AGO)
        self.new_failure = self.completed(failed_at=now)
        self.old_failure = self.completed(failed_at=now - LONG_AGO)

    def completed(self, **columns):
        columns.setdefault("run_at", timezone.now())
        return CompletedTask.objects.create(task_name="x", **columns)

    def test_successes_and_failures_are_told_apart(self):
        self.assertCountEqual(CompletedTask.objects.succeeded(), [self.new, self.old])
        self.assertCountEqual(
            CompletedTask.objects.failed(), [self.new_failure, self.old_failure]
        )

    def test_they_can_be_narrowed_to_the_last_hour(self):
        hour = timedelta(hours=1)

        self.assertCountEqual(CompletedTask.objects.succeeded(hour), [self.new])
        self.assertCountEqual(
            CompletedTask.objects.failed(within=hour), [self.new_failure]
        )

    def test_the_questions_chain(self):
        self.assertFalse(CompletedTask.objects.succeeded().failed().exists())
