"""Each action of the admin, clicked in a browser, acts on what really runs."""

import psutil
from django.urls import reverse
from django.utils import timezone

from background_task import control
from background_task.models import Attempt, CompletedTask, Control, Runner, Task
from tests.app import misbehaving
from tests.background_task.tools import make_runner
from tests.integration.tools import completed, is_held, row, supervised

from .tools import BrowserTestCase, wait_until


def address(model, page="changelist", *args):
    return reverse(f"admin:background_task_{model._meta.model_name}_{page}", args=args)


class AdminBrowserTestCase(BrowserTestCase):
    def choose(self, action, *rows):
        """Tick rows of the list that is open, choose an action, and go."""
        for chosen in rows:
            self.page.click(f'input.action-select[value="{chosen.pk}"]')
        self.page.click(f'select[name="action"] option[value="{action}"]')
        self.page.click(".actions button[name=index]")

    def press(self, action):
        """Press a button of the page that is open."""
        self.page.click(f'.bgtask-buttons [formaction$="/do/{action}/"]')

    def press_and_be_sure(self, action):
        """Press a button that leads to a question, and answer it."""
        self.page.click(f'.bgtask-buttons a[href$="/do/{action}/"]')
        self.is_sure()

    def is_sure(self):
        """Answer that it is meant."""
        self.page.click(".delete-confirmation input[type=submit]")

    def later(self, label="later"):
        """Save a task that would run tomorrow."""
        return misbehaving.work(str(self.journal), label, schedule=86400)


class ActionTests(AdminBrowserTestCase):
    def setUp(self):
        super().setUp()
        self.page.log_in(self.user())

    def test_run_now_from_the_list_and_from_the_page(self):
        one, two = self.later("one"), self.later("two")
        with supervised("--workers", 2):
            self.page.open(address(Task))
            self.choose("run_now", one)
            self.page.waits_for_text("1 is due now.")
            completed(one)
            self.page.open(address(Task, "change", two.pk))
            self.press("run_now")
            self.page.waits_for_text("1 is due now.")
            completed(two)

        self.assertEqual(sorted(self.journal.ended()), ["one", "two"])

    def test_cancel_from_the_list_and_from_the_page(self):
        one, two = self.later("one"), self.later("two")
        running = misbehaving.work(str(self.journal), "running", 600)
        with supervised("--workers", 1):
            self.journal.pid_of("running")
            wait_until(lambda: is_held(running))
            self.page.open(address(Task))
            self.choose("cancel", one, running)
            self.page.waits_for_text("Cancel 2 tasks?", "h1")
            self.assertIsNotNone(row(one))
            self.is_sure()
            self.page.waits_for_text("1 cancelled; 1 runs and was left alone: stop it.")
            self.page.open(address(Task, "change", two.pk))
            self.press_and_be_sure("cancel")
            self.page.waits_for_text("Cancelled by ops")
            self.page.waits_for_text("cancelled", ".bgtask-state")
            self.assertIn("/completedtask/", self.page.path)

            self.assertIsNone(row(one))
            self.assertTrue(is_held(running))

    def test_stop_from_the_list_and_from_the_page(self):
        tasks = [misbehaving.work(str(self.journal), name, 600) for name in "ab"]
        with supervised("--workers", 2):
            pids = [self.journal.pid_of(name) for name in "ab"]
            wait_until(lambda: all(is_held(task) for task in tasks))
            self.page.open(address(Task))
            self.page.waits_for_text("running", ".field-status")
            self.choose("stop", tasks[0])
            self.page.waits_for_text(f"Stop task {tasks[0].pk}", "h1")
            self.assertFalse(Control.objects.exists())
            self.is_sure()
            self.page.waits_for_text("1 is asked to stop.")
            completed(tasks[0])
            self.page.open(address(Task, "change", tasks[1].pk))
            self.press_and_be_sure("stop")
            self.page.waits_for_text("1 is asked to stop.")
            ended = [completed(task) for task in tasks]
            self.page.open(address(Task, "change", tasks[1].pk))
            self.page.waits_for_text("has ended: this is what became of it")
            self.page.waits_for_text("cancelled", ".bgtask-try")

        self.assertEqual({one.last_error for one in ended}, {"Cancelled by ops"})
        self.assertFalse([pid for pid in pids if psutil.pid_exists(pid)])
        outcomes = set(Attempt.objects.values_list("outcome", flat=True))
        self.assertEqual(outcomes, {Attempt.Outcome.CANCELLED})

    def test_retry_from_the_list_and_from_the_page(self):
        tasks = [misbehaving.fail_for_good(name) for name in "ab"]
        with supervised("--workers", 2):
            one, two = (completed(task) for task in tasks)
            self.page.open(address(CompletedTask))
            self.choose("retry", one)
            self.page.waits_for_text("1 waits again.")
            self.page.open(address(CompletedTask, "change", two.pk))
            self.press("retry")
            self.page.waits_for_text("1 waits again.")
            wait_until(lambda: CompletedTask.objects.filter(pk__gt=two.pk).count() == 2)

        tried = CompletedTask.objects.values_list("task_id", flat=True)
        # Each was tried again, and once, under its own id.
        self.assertCountEqual(tried, [task.pk for task in tasks])

    def test_priorities_from_the_list_and_from_the_page(self):
        task = self.later()
        self.page.open(address(Task))
        self.choose("inc_priority", task)
        self.page.waits_for_text("Priority of 1 changed.")
        self.choose("inc_priority", task)
        wait_until(lambda: row(task).priority == 2)
        self.page.open(address(Task, "change", task.pk))
        self.press("dec_priority")
        self.page.waits_for_text("Priority of 1 changed.")

        self.assertEqual(row(task).priority, 1)

    def test_drain_from_the_list_and_from_the_page(self):
        for by_button in (False, True):
            with supervised("--workers", 1) as runner:
                known = wait_until(Runner.objects.first)
                self.page.open(address(Runner))
                self.page.waits_for_text("serving", ".field-state")
                if by_button:
                    self.page.open(address(Runner, "change", known.pk))
                    self.press_and_be_sure("drain")
                else:
                    self.choose("drain", known)
                    self.is_sure()
                self.page.waits_for_text("1 is asked to drain.")
                self.assertEqual(runner.ended(), 0)

    def test_all_pages_of_a_list_are_cancelled_at_once(self):
        Task.objects.bulk_create(
            Task(task_name="x", task_params="[[], {}]", run_at=timezone.now())
            for _ in range(120)
        )
        self.page.open(address(Task))
        self.page.click("#action-toggle")
        self.page.click(".actions .question a")
        self.page.waits_for_text("All 120 selected", ".actions")
        self.choose("cancel")
        self.page.waits_for_text("Cancel 120 tasks?", "h1")
        self.is_sure()
        self.page.waits_for_text("120 cancelled.")

        self.assertFalse(Task.objects.exists())

    def test_a_question_works_without_scripts_and_no_means_no(self):
        task = self.later()
        self.page.without_scripts()
        self.page.open(address(Task, "change", task.pk))
        self.page.click('.bgtask-buttons a[href$="/do/cancel/"]')
        self.page.waits_for_text(f"Cancel task {task.pk}", "h1")
        self.page.click(".cancel-link")
        self.page.waits_for_text("waiting", ".bgtask-state")
        self.assertIsNotNone(row(task))

        self.press_and_be_sure("cancel")
        self.page.waits_for_text("Cancelled by ops")


class LookingTests(AdminBrowserTestCase):
    def test_a_viewer_sees_the_pages_and_cannot_act(self):
        task = self.later()
        viewer = self.user("viewer", "view_task", "view_runner")
        with supervised("--workers", 1):
            runner = wait_until(Runner.objects.first)
            self.page.log_in(viewer)
            for model, one in ((Task, task), (Runner, runner)):
                self.page.open(address(model))
                self.assertEqual(self.page.count("#result_list tbody tr"), 1)
                self.assertEqual(self.page.count("select[name=action]"), 0)
                self.page.open(address(model, "change", one.pk))
                self.assertEqual(self.page.count(".bgtask-page"), 1)
                self.assertEqual(self.page.count(".bgtask-buttons"), 0)
                self.assertEqual(self.page.count("input[type=submit]"), 0)

    def test_one_who_only_controls_acts_and_changes_nothing_else(self):
        task = self.later()
        self.page.log_in(self.user("night", "view_task", "control_task"))
        self.page.open(address(Task, "change", task.pk))
        self.assertEqual(self.page.count("input[name=_save]"), 0)
        self.press("run_now")
        self.page.waits_for_text("1 is due now.")

        self.assertLessEqual(row(task).run_at, timezone.now())

    def test_a_running_task_is_to_be_seen(self):
        task = misbehaving.hold_memory(60)
        with supervised("--workers", 1, "--memory-limit", "400M"):
            wait_until(lambda: (r := Runner.objects.first()) and r.running)
            self.page.log_in(self.user())
            self.page.open(address(Task, "change", task.pk))
            self.page.waits_for_text("of at most 400 MiB")
            self.page.open(address(Runner))
            self.page.waits_for_text("hold_memory", ".field-runs")
            self.page.click(".field-runs a")
            self.page.waits_for_text("running", ".bgtask-state")
            control.stop([task.pk], "ops")
            completed(task)

    def test_what_is_wide_scrolls_and_nothing_sticks_out_of_a_phone(self):
        task = self.later()
        long = {"last_error": "x" * 3000, "verbose_name": "x" * 200}
        Task.objects.filter(pk=task.pk).update(**long, attempts=1)
        runner = make_runner()
        told = {"task": task.pk, "name": f"shop.tasks.{'x' * 60}", "pid": 4194304}
        runner.running = [told | {"held": 2**30, "memory": 2**31, "seconds": 86_400}]
        runner.save()
        self.page.log_in(self.user())
        self.page.command(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=844,
            deviceScaleFactor=1,
            mobile=True,
        )
        for path in (
            address(Task),
            address(Task, "change", task.pk),
            address(Task, "do", task.pk, "cancel"),
            address(Runner),
            address(Runner, "change", runner.pk),
        ):
            self.page.open(path)
            wide = self.page.run("return document.documentElement.scrollWidth")
            self.assertLessEqual(wide, 390, path)

    def test_ordinary_rows_fit_a_small_desktop_and_names_break_between_words(self):
        error = (
            "Traceback\nrequests.exceptions.HTTPError: 503 Server Error for /stock/77"
        )
        name = "accounts.tasks.remove_all_expired_sessions"
        now = timezone.now()
        columns = {"task_name": name, "task_params": '[[41], {"copies": 2}]'}
        columns |= {"queue": "partners", "last_error": error, "attempts": 3}
        columns |= {"verbose_name": "What nobody has used for a month, and its carts"}
        task = Task(pk=48_123_456, **columns, run_at=now, locked_by="a-runner")
        task.save(force_insert=True)
        CompletedTask.objects.create(
            **columns, run_at=now, failed_at=now, task_id=task.pk
        )
        Attempt.objects.create(
            task_id=task.pk,
            task_name=name,
            number=3,
            outcome="OutOfMemory",
            error=error,
            started_at=now,
            ended_at=now,
            peak_memory=512 * 1024**2,
            cpu_seconds=4000,
            exit_code=-15,
        )
        self.task_id = task.pk
        runner = make_runner("5f0c1d9e-6f0a-4c55-9d0e-2f8a6f8f1c11")
        runner.host, runner.slots, runner.queues = "worker-1.internal", 16, ["mail"]
        told = {"task": task.pk, "name": name, "held": 2**29, "began": 1, "pid": 7}
        runner.running = [told | {"memory": None, "seconds": None}] * 2
        runner.lease = 30
        runner.save()
        self.page.log_in(self.user())
        for width in (1280, 1700):
            for model in (Task, CompletedTask, Attempt, Runner):
                with self.subTest(model.__name__, width=width):
                    self.fits(model, width)

    def fits(self, model, width):
        """Assert that no row is wider than its list, or broken within a word."""
        self.page.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.page.open(address(model))
        room, wide = self.page.run("""
            const it = document.querySelector(".results");
            return [it.clientWidth, it.scrollWidth];
        """)
        self.assertLessEqual(wide, room)
        if model is not Runner:
            self.assertIn("HTTPError", self.page.text(".bgtask-error"))
            self.assertIn(str(self.task_id), self.page.text(".field-named small"))
        parts = self.page.run("""
            // On how many lines each piece is, between places where a name may break.
            const name = document.querySelector(".field-named a span, .field-runs a");
            const texts = document.createTreeWalker(name, NodeFilter.SHOW_TEXT);
            const lines = [];
            while (texts.nextNode()) {
                const range = document.createRange();
                range.selectNode(texts.currentNode);
                lines.push(range.getClientRects().length);
            }
            return lines;
        """)
        self.assertEqual(parts, [1] * 6)

    def test_texts_of_tasks_are_texts(self):
        evil = "<script>document.title = 'owned'</script>"
        task = self.later()
        Task.objects.filter(pk=task.pk).update(
            task_name=f"x.{evil}", last_error=evil, verbose_name=evil, queue=evil
        )
        self.page.log_in(self.user())
        for path in (address(Task), address(Task, "change", task.pk)):
            self.page.open(path)
            self.page.waits_for_text(evil)
            self.assertNotEqual(self.page.run("return document.title"), "owned")
