from datetime import timedelta

from django.contrib.auth.models import User
from django.db import IntegrityError, connection, models, transaction
from django.db.models.signals import post_save
from django.test import TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from background_task import books
from background_task.models import Attempt, CompletedTask, Task
from tests.app.models import Upload

from .tools import (
    inserts,
    make_claimed_task,
    make_task,
    model_pointing_at_tasks,
    receiver,
)


class SucceedTests(TestCase):
    def test_the_task_is_completed(self):
        user = User.objects.create(username="ada")
        task, claim = make_claimed_task(
            args=(1,),
            priority=3,
            queue="q",
            verbose_name="One",
            creator=user,
            repeat=60,
            repeat_until=timezone.now(),
        )
        before = timezone.now()

        entry = books.succeed(claim)

        self.assertEqual(Task.objects.count(), 0)
        completed = CompletedTask.objects.get()
        self.assertEqual(completed, entry.completed)
        self.assertGreaterEqual(completed.run_at, before)
        self.assertEqual(completed.attempts, 1)
        self.assertIsNone(completed.failed_at)
        for field in CompletedTask._meta.concrete_fields:
            if field.attname not in {"id", "run_at", "attempts", "task_id"}:
                self.assertEqual(
                    getattr(completed, field.attname),
                    getattr(task, field.attname),
                    field.attname,
                )
        self.assertEqual((entry.task.pk, entry.task.attempts), (task.pk, 1))
        self.assertIsNone(entry.repetition)

    def test_what_changed_during_the_run_is_kept(self):
        _, claim = make_claimed_task()
        Task.objects.update(priority=77)

        books.succeed(claim)

        self.assertEqual(CompletedTask.objects.get().priority, 77)

    def test_the_error_of_an_earlier_try_is_forgotten(self):
        _, claim = make_claimed_task(attempts=2, last_error="oops")

        books.succeed(claim)

        completed = CompletedTask.objects.get()
        self.assertEqual((completed.attempts, completed.has_error()), (3, False))

    def test_a_repeating_task_gets_its_next_run(self):
        user = User.objects.create(username="ada")
        task, claim = make_claimed_task(
            args=(1,),
            priority=3,
            queue="q",
            verbose_name="One",
            creator=user,
            repeat=Task.HOURLY,
            repeat_until=timezone.now() + timedelta(days=1),
            attempts=4,
            last_error="oops",
        )

        entry = books.succeed(claim)

        repetition = Task.objects.get()
        self.assertEqual(repetition, entry.repetition)
        self.assertEqual(repetition.run_at, task.run_at + timedelta(hours=1))
        self.assertEqual(repetition.attempts, 0)
        self.assertEqual(repetition.last_error, "")
        self.assertIsNone(repetition.locked_by)
        self.assertEqual(repetition.creator, user)
        for name in (
            "task_name",
            "task_params",
            "task_hash",
            "priority",
            "queue",
            "verbose_name",
            "repeat",
            "repeat_until",
        ):
            self.assertEqual(getattr(repetition, name), getattr(task, name), name)

    def test_a_model_that_points_at_the_task_is_asked_what_to_do(self):
        task, claim = make_claimed_task()
        upload = Upload.objects.create(name="photo", task=task)

        books.succeed(claim)

        upload.refresh_from_db()
        self.assertIsNone(upload.task)

    def test_it_takes_few_statements(self):
        _, claim = make_claimed_task()

        with CaptureQueriesContext(connection) as queries:
            books.succeed(claim)

        statements = [
            query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]
        ]
        # Begin (SQLite only), read, insert, read and update for the model that points
        # at the task, delete.
        self.assertLessEqual(len(statements), 6, statements)


class LongTests(TransactionTestCase):
    """More than a server takes in one statement: MariaDB's limit is 16 MiB."""

    def test_many_that_fail_at_length(self):
        claims = [make_claimed_task()[1] for _ in range(150)]
        error = "é" * 65_000
        evidence = {"outcome": "Failed", "started_at": None, "ended_at": timezone.now()}
        evidence |= {"host": "", "runner_id": "r", "output": "", "stack": ""}
        evidence |= {"output_size": 0}
        endings = [books.Ending(claim, error, False, evidence) for claim in claims]

        entries = books.record(endings)

        self.assertNotIn(None, entries)
        tasks = Task.objects.filter(attempts=1, locked_by=None, last_error=error)
        self.assertEqual(tasks.count(), 150)
        self.assertEqual(Attempt.objects.filter(error=error).count(), 150)

    def test_many_of_long_arguments(self):
        for _ in range(20):
            make_claimed_task(args=("x" * 1_000_000,))
        endings = [books.Ending(books.Claim.of(task)) for task in Task.objects.all()]

        books.record(endings)

        self.assertEqual(CompletedTask.objects.filter(failed_at=None).count(), 20)
        self.assertEqual(Task.objects.count(), 0)


class FailTests(TestCase):
    def test_the_task_is_tried_again_later(self):
        task, claim = make_claimed_task(repeat=60)
        before = timezone.now()

        with self.assertLogs("background_task.models", "WARNING") as logs:
            entry = books.fail(claim, "oops")

        row = Task.objects.get()
        self.assertEqual((row.attempts, row.last_error), (1, "oops"))
        self.assertIsNone(row.locked_by)
        self.assertIsNone(row.locked_at)
        self.assertIsNone(row.failed_at)
        self.assertGreaterEqual(row.run_at, before + timedelta(seconds=6))
        self.assertEqual(
            logs.records[0].getMessage(),
            f"Rescheduling task {task.pk} ({task}) for 0:00:06 later at "
            f"{entry.task.run_at}",
        )
        self.assertIsNone(entry.completed)
        self.assertIsNone(entry.repetition)
        self.assertEqual(CompletedTask.objects.count(), 0)

    def test_what_changed_during_the_run_is_kept(self):
        _, claim = make_claimed_task()
        Task.objects.update(priority=77)

        with self.assertLogs("background_task.models"):
            books.fail(claim, "oops")

        self.assertEqual(Task.objects.get().priority, 77)

    @override_settings(MAX_ATTEMPTS=2)
    def test_after_the_last_attempt_the_task_has_failed(self):
        task, claim = make_claimed_task(attempts=1, repeat=60)
        before = timezone.now()

        with self.assertLogs("background_task.models", "WARNING") as logs:
            entry = books.fail(claim, "oops")

        completed = CompletedTask.objects.get()
        self.assertEqual(completed, entry.completed)
        self.assertGreaterEqual(completed.failed_at, before)
        self.assertEqual((completed.attempts, completed.last_error), (2, "oops"))
        self.assertEqual((completed.locked_by, completed.locked_at), claim[1:])
        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(
            logs.records[0].getMessage(), f"Marking task {task.pk} ({task}) as failed"
        )

    def test_a_permanent_failure_is_final_at_once(self):
        _, claim = make_claimed_task()

        with self.assertLogs("background_task.models"):
            entry = books.fail(claim, "oops", permanent=True)

        self.assertIsNotNone(entry.completed.failed_at)
        self.assertEqual(Task.objects.count(), 0)


class ReleaseTests(TestCase):
    def test_the_task_is_runnable_at_once_and_no_attempt_is_counted(self):
        task, claim = make_claimed_task()

        self.assertTrue(books.release(claim))

        row = Task.objects.find_available().get()
        self.assertEqual((row.attempts, row.run_at), (0, task.run_at))


class AbandonTests(TestCase):
    def test_the_task_stays_and_is_never_run(self):
        task, claim = make_claimed_task(attempts=2, repeat=60)
        before = timezone.now()

        self.assertTrue(books.abandon(claim, "oops"))

        row = Task.objects.failed().get()
        self.assertEqual((row.attempts, row.last_error), (3, "oops"))
        self.assertGreaterEqual(row.failed_at, before)
        self.assertIsNone(row.locked_by)
        self.assertIsNone(row.locked_at)
        self.assertEqual(row.run_at, task.run_at)
        self.assertFalse(Task.objects.find_available().exists())
        self.assertEqual(CompletedTask.objects.count(), 0)

    def test_it_writes_what_every_database_can_store(self):
        _, claim = make_claimed_task()

        books.abandon(claim, "zero \x00, é, 🐎, half a pair \ud800")

        self.assertEqual(
            Task.objects.get().last_error,
            r"zero \x00, \xe9, \U0001f40e, half a pair \ud800",
        )

    def test_it_is_one_statement(self):
        _, claim = make_claimed_task()

        with CaptureQueriesContext(connection) as queries:
            books.abandon(claim, "oops")

        statements = [q["sql"] for q in queries if "SAVEPOINT" not in q["sql"]]
        self.assertEqual(len(statements), 1, statements)


class FenceTests(TestCase):
    """Whoever comes late changes nothing."""

    def assert_fenced(self, claim):
        before = list(Task.objects.values())

        self.assertIsNone(books.succeed(claim))
        self.assertIsNone(books.fail(claim, "oops"))
        self.assertIsNone(books.fail(claim, "oops", permanent=True))
        self.assertFalse(books.release(claim))
        self.assertFalse(books.abandon(claim, "oops"))

        self.assertEqual(list(Task.objects.values()), before)
        self.assertEqual(CompletedTask.objects.count(), 0)

    def test_a_deleted_task_is_not_resurrected(self):
        _, claim = make_claimed_task()
        Task.objects.all().delete()

        self.assert_fenced(claim)

    def test_a_task_that_another_holds_is_left_to_it(self):
        _, claim = make_claimed_task()
        Task.objects.update(locked_by="another")

        self.assert_fenced(claim)

    def test_another_try_by_the_same_runner_is_left_alone(self):
        _, claim = make_claimed_task()
        Task.objects.update(locked_at=timezone.now() + timedelta(seconds=1))

        self.assert_fenced(claim)

    def test_a_released_task_is_left_alone(self):
        _, claim = make_claimed_task()
        books.release(claim)

        self.assert_fenced(claim)

    def test_a_try_is_recorded_once(self):
        _, claim = make_claimed_task(repeat=60)

        self.assertIsNotNone(books.succeed(claim))
        self.assertIsNone(books.succeed(claim))
        self.assertEqual(CompletedTask.objects.count(), 1)
        self.assertEqual(Task.objects.count(), 1)


class ManyTests(TransactionTestCase):
    """Many endings in one transaction, as the bookkeeper writes them."""

    def endings(self, times):
        """Return endings of each kind, `times` of each, in turn."""
        endings = []
        for _ in range(times):
            _, well = make_claimed_task(repeat=60)
            _, again = make_claimed_task()
            _, for_good = make_claimed_task()
            endings += [
                books.Ending(well),
                books.Ending(again, f"oops of {again.pk}"),
                books.Ending(for_good, "never", permanent=True),
            ]
        return endings

    def test_each_task_gets_its_own_ending(self):
        endings = self.endings(2)

        entries = books.record(endings)

        for (claim, *_), entry in zip(endings, entries, strict=True):
            self.assertEqual(entry.task.pk, claim.pk)
            if entry.completed:
                row = CompletedTask.objects.get(pk=entry.completed.pk)
                self.assertEqual(bool(row.failed_at), row.last_error == "never")
            else:
                row = Task.objects.get(pk=claim.pk)
                self.assertEqual(row.last_error, f"oops of {claim.pk}")
                self.assertEqual(
                    (row.attempts, row.locked_by, row.run_at),
                    (1, None, entry.task.run_at),
                )
        self.assertEqual(CompletedTask.objects.count(), 4)
        self.assertEqual(Task.objects.filter(repeat=60).count(), 2)

    def test_the_statements_do_not_grow_with_the_batch(self):
        few, many = self.endings(2), self.endings(20)

        with CaptureQueriesContext(connection) as for_few:
            books.record(few)
        with CaptureQueriesContext(connection) as for_many:
            books.record(many)

        more = inserts(18 * 3)  # two completed rows and a repetition each
        self.assertEqual(len(for_many), len(for_few) + more)

    def test_what_is_fenced_stops_no_other(self):
        endings = self.endings(1)
        Task.objects.filter(pk=endings[0].claim.pk).update(locked_by="another")

        entries = books.record(endings)

        self.assertEqual([bool(entry) for entry in entries], [False, True, True])

    def test_a_refused_one_undoes_all(self):
        with model_pointing_at_tasks(models.PROTECT) as Loan:
            endings = self.endings(1)
            Loan.objects.create(task_id=endings[0].claim.pk)

            with self.assertRaises(models.ProtectedError):
                books.record(endings)

            self.assertEqual(CompletedTask.objects.count(), 0)
            self.assertFalse(Task.objects.filter(locked_by=None).exists())

    def test_many_are_given_back_at_once(self):
        claims = [claim for claim, *_ in self.endings(2)]
        Task.objects.filter(pk=claims[0].pk).update(locked_by="another")

        with CaptureQueriesContext(connection) as queries:
            self.assertEqual(set(books.release_all(claims)), set(claims[1:]))

        self.assertLessEqual(len(queries), 5)
        self.assertEqual(Task.objects.filter(locked_by=None).count(), 5)


def refuse_repetitions(instance, **kwargs):
    if isinstance(instance, Task):
        raise RuntimeError("no repetition today")


class PointedAtTests(TransactionTestCase):
    """Models with a foreign key to Task."""

    def test_what_lets_the_task_go_is_asked_what_to_do(self):
        for on_delete, options, left in (
            (models.CASCADE, {}, []),
            (models.SET_NULL, {"null": True}, [None]),
            (models.SET_DEFAULT, {"null": True, "default": None}, [None]),
        ):
            with (
                self.subTest(on_delete),
                model_pointing_at_tasks(on_delete, **options) as Loan,
            ):
                task, claim = make_claimed_task()
                Loan.objects.create(task=task)

                self.assertIsNotNone(books.succeed(claim))

                self.assertEqual(
                    list(Loan.objects.values_list("task", flat=True)), left
                )

    def test_what_keeps_the_task_has_nothing_written(self):
        for on_delete in (models.PROTECT, models.RESTRICT, models.DO_NOTHING):
            with self.subTest(on_delete), model_pointing_at_tasks(on_delete) as Loan:
                task, claim = make_claimed_task(repeat=60)
                Loan.objects.create(task=task)

                with self.assertRaises(IntegrityError):
                    books.succeed(claim)

                self.assertEqual(Task.objects.get().locked_by, claim.locked_by)
                self.assertEqual(CompletedTask.objects.count(), 0)
                self.assertTrue(books.abandon(claim, "it is kept"))
                Loan.objects.all().delete()
                Task.objects.all().delete()

    def test_one_that_is_abandoned_spoils_no_other_of_the_same_transaction(self):
        with model_pointing_at_tasks(models.PROTECT) as Loan:
            kept, claim = make_claimed_task()
            Loan.objects.create(task=kept)
            _, other = make_claimed_task()

            with transaction.atomic():
                with self.assertRaises(models.ProtectedError):
                    books.succeed(claim)
                self.assertTrue(books.abandon(claim, "it is kept"))
                books.succeed(other)

            self.assertEqual(Task.objects.failed().get(), kept)
            self.assertEqual(CompletedTask.objects.count(), 1)


class TransactionTests(TransactionTestCase):
    def test_nothing_is_written_if_the_whole_cannot_be(self):
        task, claim = make_claimed_task(repeat=60)

        with receiver(post_save, refuse_repetitions), self.assertRaises(RuntimeError):
            books.succeed(claim)

        self.assertEqual(Task.objects.get(), task)
        self.assertEqual(CompletedTask.objects.count(), 0)

    def test_a_refused_record_spoils_no_other_of_the_same_transaction(self):
        _, refused = make_claimed_task(repeat=60)
        _, claim = make_claimed_task()

        with receiver(post_save, refuse_repetitions), transaction.atomic():
            with self.assertRaises(RuntimeError):
                books.succeed(refused)
            books.succeed(claim)

        self.assertEqual(Task.objects.count(), 1)
        self.assertEqual(CompletedTask.objects.count(), 1)

    def test_tasks_nobody_claimed_can_be_recorded_too(self):
        task = make_task()

        self.assertIsNotNone(books.succeed(books.Claim.of(task)))
