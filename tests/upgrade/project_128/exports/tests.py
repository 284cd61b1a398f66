"""The project's own tests: `manage.py test`."""

from datetime import timedelta

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TestCase
from django.utils import timezone

from background_task.models import CompletedTask, Task
from background_task.tasks import TaskSchedule, tasks

from .models import Export
from .tasks import export, fail, give_up, mail, note


class ExportTests(TestCase):
    def schedule(self):
        row = Export.objects.create(name="orders")
        row.task = export(row.pk, verbose_name="Export orders", creator=row)
        row.save()
        return row

    def test_it_waits_for_its_time(self):
        row = self.schedule()

        self.assertFalse(tasks.run_next_task())

        row.refresh_from_db()
        self.assertFalse(row.ready)
        self.assertEqual(str(row.task), "Export orders")
        self.assertEqual(Task.objects.created_by(row).get(), row.task)

    def test_it_runs_and_lets_go_of_its_task(self):
        row = self.schedule()
        Task.objects.update(run_at=timezone.now())

        self.assertTrue(tasks.run_next_task())

        row.refresh_from_db()
        self.assertTrue(row.ready)
        self.assertIsNone(row.task)
        done = CompletedTask.objects.succeeded(within=timedelta(minutes=1)).get()
        self.assertEqual(done.verbose_name, "Export orders")
        self.assertEqual(done.attempts, 1)
        self.assertEqual(done.creator, row)

    def test_the_row_of_a_deleted_export_says_so(self):
        row = self.schedule()
        Task.objects.drop_task("exports.tasks.export", [row.pk])

        row.refresh_from_db()
        self.assertIsNone(row.task)


class FailureTests(TestCase):
    def test_it_is_tried_three_times(self):
        fail("x")
        for attempts in (1, 2):
            Task.objects.update(run_at=timezone.now())
            self.assertTrue(tasks.run_next_task())
            task = Task.objects.get()
            self.assertEqual(task.attempts, attempts)
            self.assertIn("ValueError: x: a bad day", task.last_error)
            self.assertIsNone(task.locked_by)
            self.assertTrue(task.has_error())

        Task.objects.update(run_at=timezone.now())
        tasks.run_next_task()

        self.assertFalse(Task.objects.exists())
        self.assertEqual(CompletedTask.objects.failed().get().attempts, 3)

    def test_an_invalid_task_fails_at_once(self):
        give_up("x")

        tasks.run_next_task()

        self.assertEqual(CompletedTask.objects.failed().count(), 1)


class ScheduleTests(TestCase):
    def test_the_same_mail_is_sent_once(self):
        mail("a@example.com")
        mail("a@example.com")

        self.assertEqual(Task.objects.get().queue, "mail")

    def test_an_existing_task_is_moved(self):
        note("x", schedule=60)
        later = timezone.now() + timedelta(days=1)

        again = note(
            "x",
            schedule={
                "run_at": later,
                "priority": 5,
                "action": TaskSchedule.RESCHEDULE_EXISTING,
            },
        )

        self.assertIsNone(again)
        task = Task.objects.get()
        self.assertEqual((task.run_at, task.priority), (later, 5))

    def test_a_daily_task_comes_again(self):
        first = note("x", repeat=Task.DAILY)

        tasks.run_next_task()

        again = Task.objects.get()
        self.assertEqual(again.run_at, first.run_at + timedelta(days=1))
        self.assertEqual(again.task_hash, first.task_hash)

    def test_a_task_is_run_by_its_name(self):
        note("x")

        tasks.run_task("exports.tasks.note", ["x"], {})

        self.assertEqual(CompletedTask.objects.count(), 1)

    def test_the_higher_priority_comes_first(self):
        note("low", priority=-1)
        note("high", priority=1)

        tasks.run_next_task()

        self.assertEqual(Task.objects.get().params(), (["low"], {}))


class CommandTests(TestCase):
    def test_the_command_runs_what_is_due_in_its_queue(self):
        note("x")
        mail("a@example.com")

        call_command("process_tasks", duration=1, sleep=0.2, queue="mail")

        self.assertEqual(Task.objects.get().queue, None)
        self.assertEqual(CompletedTask.objects.get().queue, "mail")


class AdminTests(TestCase):
    def setUp(self):
        user = User.objects.create_superuser("root", "root@example.com", "secret")
        self.client.force_login(user)

    def test_the_list_shows_the_tasks(self):
        note("x", verbose_name="Note x", queue="mail")

        page = self.client.get("/admin/background_task/task/?queue=mail")

        self.assertContains(page, "Note x")
        self.assertContains(page, "exports.tasks.note")
        self.assertContains(page, "priority += 1")

    def test_the_actions_act(self):
        task = note("x", schedule=3600)
        chosen = {"_selected_action": [task.pk]}

        for action in ("inc_priority", "inc_priority", "dec_priority", "run_now"):
            self.client.post(
                "/admin/background_task/task/", {"action": action, **chosen}
            )

        task.refresh_from_db()
        self.assertEqual(task.priority, 1)
        self.assertLessEqual(task.run_at, timezone.now())

    def test_the_completed_ones_are_shown(self):
        note("x")
        tasks.run_next_task()

        page = self.client.get("/admin/background_task/completedtask/")

        self.assertContains(page, "exports.tasks.note")
