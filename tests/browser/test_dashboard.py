"""The dashboard as people see it, with a runner at work beside it."""

import time
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.utils import timezone

from background_task import control, dashboard
from background_task.models import Attempt, CompletedTask, Control, Runner, Task
from tests.app import misbehaving
from tests.background_task.tools import make_runner
from tests.integration.tools import is_held, row, supervised

from .tools import BrowserTestCase, Keys, wait_until

BOARD = "/admin/background_task/task/dashboard/"
STATUS = "#bgt-status"
DUE = {
    "task_name": "app.tasks.new",
    "task_params": "[[], {}]",
    "run_at": datetime(2020, 1, 1, tzinfo=UTC),
}


class DashboardTestCase(BrowserTestCase):
    def setUp(self):
        super().setUp()
        dashboard.forget()
        self.addCleanup(dashboard.forget)
        self.end = self.folder / "end"
        self.addCleanup(self.end.touch)

    def lasting(self, label="lasting", **options):
        """Enqueue a task that gets on until the test is over."""
        return misbehaving.go_on(str(self.journal), label, str(self.end), **options)

    def completed(self, task):
        rows = CompletedTask.objects.filter(task_id=task.pk)
        return wait_until(rows.first, what=f"the end of {task}")

    def asked(self):
        """Return how often the part that changes was asked for so far."""
        return sum(address.endswith("?live") for address in self.page.requests())


class LiveTests(DashboardTestCase):
    @pytest.mark.lifecycle
    def test_what_runs_gets_on_without_a_reload_and_the_focus_stays(self):
        task = self.lasting()
        number = "parseFloat(document.querySelector(arguments[0]).innerText)"
        with supervised("--workers", 2):
            self.open_as(self.user(), BOARD)
            self.page.run("window.wasHere = true")
            line = f"#bgt-task-{task.pk}"
            wait_until(lambda: self.page.count(line), what="it is shown")
            self.page.run("document.querySelector(arguments[0]).focus()", f"{line} a")
            self.page.waits_for_text("%", f"{line} .bgt-percent")
            for part in (".bgt-percent", ".bgt-elapsed"):
                first = self.page.run(f"return {number}", f"{line} {part}")
                wait_until(
                    lambda part=part, first=first: (
                        self.page.run(f"return {number}", f"{line} {part}") > first
                    ),
                    what=f"{part} grows",
                )
            self.page.waits_for_text("step", line)
            focused = "return document.activeElement.closest('tr')?.id"
            self.assertEqual(self.page.run(focused), line[1:])
            self.assertIn("Healthy", self.page.text("#bgt-health"))
            self.end.touch()
            wait_until(lambda: not self.page.count(line), what="it is not shown")

            self.assertTrue(self.page.run("return window.wasHere"))
            # What had the focus is gone; its part of the page has it now.
            focused = "return document.activeElement.id"
            self.assertEqual(self.page.run(focused), "bgt-running-h")
            self.page.waits_for_text("go_on", "#bgt-names")

    def test_it_sleeps_while_nobody_looks(self):
        self.open_as(self.user(), BOARD)
        wait_until(lambda: self.asked() >= 1, what="it asks")
        self.page.driver.minimize_window()
        wait_until(lambda: self.page.run("return document.hidden"), what="it is hidden")
        asked = self.asked()
        Task.objects.create(**DUE)
        dashboard.forget()
        # As long as two questions take: of a thing that does not happen.
        time.sleep(5.5)
        self.assertLessEqual(self.asked(), asked + 1)  # one may have been on its way
        self.assertNotIn("1 task is due", self.page.text("#bgt-health"))
        self.page.driver.set_window_size(1280, 900)
        self.page.waits_for_text("1 task is due", "#bgt-health")

    def test_a_lost_connection_is_told_and_comes_back(self):
        self.open_as(self.user(), BOARD)
        self.page.command("Network.enable")
        lost = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.page.command("Network.emulateNetworkConditions", offline=True, **lost)
        self.page.waits_for_text("Connection lost, retrying", STATUS)
        self.page.command("Network.emulateNetworkConditions", offline=False, **lost)
        self.page.waits_for_text("Connected again", STATUS)
        self.page.forgive("ERR_INTERNET_DISCONNECTED")

    def test_what_is_no_dashboard_is_not_shown_and_it_comes_back(self):
        self.open_as(self.user(), BOARD)
        self.page.run("""
            const really = window.fetch;
            window.fetch = async () => {
                window.fetch = really;
                return new Response("<h1>Maintenance</h1>");
            };
        """)
        self.page.waits_for_text("Connection lost, retrying", STATUS)
        self.assertNotIn("Maintenance", self.page.text())
        self.assertTrue(self.page.text("#bgt-health .bgt-state"))
        self.page.waits_for_text("Connected again", STATUS)

    def test_it_stops_when_one_is_logged_out(self):
        user = self.user()
        self.open_as(user, BOARD)
        self.page.command("Network.clearBrowserCookies")
        self.page.waits_for_text("You are logged out", STATUS)
        self.assertEqual(self.page.text("#bgt-hold"), "Hold updates")
        is_seen = "return document.getElementById('bgt-hold').checkVisibility()"
        self.assertFalse(self.page.run(is_seen))

    def test_updates_are_held_by_the_keyboard(self):
        self.open_as(self.user(), BOARD)
        wait_until(lambda: self.asked() >= 1, what="it asks")
        self.page.run("document.getElementById('bgt-hold').focus()")
        self.page.press(Keys.ENTER)
        self.page.waits_for_text("Updates are held", STATUS)
        self.page.press(Keys.SPACE)
        asked = self.asked()
        wait_until(lambda: self.asked() > asked, what="it asks again")

    def test_it_is_whole_without_scripts_and_new_by_a_reload(self):
        self.page.without_scripts()
        self.open_as(self.user(), BOARD)
        self.assertIn("No runner", self.page.driver.page_source)
        self.assertIn("Reload", self.page.driver.page_source)
        Task.objects.create(**DUE)
        dashboard.forget()
        self.page.click("noscript a")

        self.assertIn("1 task is due", self.page.driver.page_source)

    def test_a_phone_scrolls_one_way_only(self):
        self.page.command(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=844,
            deviceScaleFactor=1,
            mobile=True,
        )
        control.pause("a-queue-with-quite-a-long-name" * 4, "nina" * 20)
        word = "unbreakable" * 18
        task = misbehaving.work(str(self.journal), "long", queue=word[:190])
        Task.objects.update(
            locked_by="a-runner",
            progress_done=1,
            progress_total=9,
            progress_message=word,
        )
        told = {"task": task.pk, "name": f"{word[:90]}.{word[:90]}", "pid": 4194304}
        limits = {"held": 2**40, "memory": 2**41, "seconds": 86_400 * 9}
        runner = make_runner()
        runner.host = word
        runner.running = [told | limits | {"began": 0}]
        runner.save()
        now = timezone.now()
        Attempt.objects.create(
            task_id=1,
            number=1,
            task_name=told["name"],
            outcome="Failed",
            error=word,
            ended_at=now,
        )
        self.open_as(self.user(), BOARD)

        self.assertIn("unbreakable", self.page.text("#bgt-running"))
        wider = """
            return [document.documentElement, ...document.querySelectorAll("section")]
                .filter(it => it.scrollWidth > it.clientWidth).map(it => it.outerHTML)
        """
        self.assertEqual(self.page.run(wider), [])


class ActTests(DashboardTestCase):
    @pytest.mark.lifecycle
    def test_stop_is_clicked_and_confirmed_and_stops_it(self):
        task = self.lasting()
        with supervised("--workers", 1):
            self.open_as(self.user("nina"), BOARD)
            self.page.click(f"#bgt-task-{task.pk} .bgt-act a")
            self.page.waits_for_text(f"Stop task {task.pk}", "h1")
            self.assertFalse(Control.objects.exists())
            self.page.click("#content input[type=submit]")
            self.page.waits_for_text("is being stopped", ".messagelist")
            completed = self.completed(task)

        self.assertEqual(completed.last_error, "Cancelled by nina")
        self.assertFalse(self.journal.ended())

    @pytest.mark.lifecycle
    def test_a_queue_is_paused_and_resumed_by_a_click(self):
        with supervised("--workers", 2):
            wait_until(Runner.objects.exists, what="a runner is there")
            self.lasting("runs", queue="mail")
            self.journal.pid_of("runs")
            waits = misbehaving.work(
                str(self.journal), "waits", queue="mail", schedule=3600
            )
            self.open_as(self.user("nina"), BOARD)
            self.page.click("#bgt-queues form button")
            self.page.waits_for_text("paused", "#bgt-queues .bgt-tag-warn")
            self.assertEqual(control.paused().get().target, "mail")
            control.run_now([waits.pk])
            free = misbehaving.work(str(self.journal), "free", queue="news")
            self.completed(free)
            self.assertFalse(is_held(waits))
            self.assertIsNotNone(row(waits))
            self.page.click("#bgt-queues form button")
            self.page.waits_for_text("Resumed", ".messagelist")
            self.completed(waits)

    def test_all_is_paused_and_a_runner_is_drained(self):
        with supervised("--workers", 1) as runner:
            wait_until(Runner.objects.exists, what="a runner is there")
            self.open_as(self.user("nina"), BOARD)
            self.page.click("#bgt-pause-all")
            self.page.click("#content input[type=submit]")
            self.page.waits_for_text("Everything is paused", "#bgt-health")
            self.page.click("#bgt-resume-all")
            self.page.waits_for_text("Healthy", "#bgt-health")
            self.page.click("#bgt-runners .bgt-act a")
            self.page.click("#content input[type=submit]")
            self.assertEqual(runner.ended(), 0)
            self.assertIn("Asked to drain by nina", runner.output)
            self.page.waits_for_text("No runner", "#bgt-health")

    def test_who_may_only_view_can_do_nothing(self):
        task = self.lasting()
        viewer = self.user("viewer", "view_task", "view_attempt", "view_runner")
        with supervised("--workers", 1):
            self.open_as(viewer, BOARD)
            wait_until(lambda: self.page.count(f"#bgt-task-{task.pk}"), what="it runs")

            self.assertFalse(self.page.count("#bgt-live a.button, #bgt-live button"))
            self.assertFalse(self.page.count("#bgt-live form"))
            self.page.open(f"{BOARD}stop/?target={task.pk}")
            self.assertIn("403", self.page.text("h1"))
            self.page.forgive("status of 403")
            client = Client()
            client.force_login(viewer)
            asked = client.post(f"{BOARD}stop/", {"target": task.pk})
            self.assertEqual(asked.status_code, 403)
            self.assertFalse(Control.objects.exists())

    def test_an_operator_who_is_no_superuser_acts(self):
        Permission.objects.get_or_create(
            codename="control_task",
            content_type=ContentType.objects.get_for_model(Task),
        )
        self.open_as(self.user("ops", "view_task", "control_task"), BOARD)
        self.page.click("#bgt-pause-all")
        self.page.click("#content input[type=submit]")
        self.page.waits_for_text("Paused: everything", ".messagelist")

        self.assertEqual(control.paused().get().by, "ops")
