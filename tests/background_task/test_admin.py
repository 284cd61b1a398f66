import os
import re
import threading
from datetime import UTC, datetime, timedelta
from unittest import skipIf
from unittest.mock import patch

from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection, connections
from django.test import (
    RequestFactory,
    TestCase,
    TransactionTestCase,
    override_settings,
)
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from background_task import books
from background_task.admin import TaskAdmin
from background_task.models import CompletedTask, Runner, Task

from .tools import (
    form_values,
    make_claimed_task,
    make_runner,
    make_task,
    somebody_else,
)

NOW = timezone.now()


class AdminTests(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("root"))

    def page(self, model):
        address = reverse(f"admin:background_task_{model._meta.model_name}_changelist")
        return self.client.get(address)

    def address(self, model, page, *args):
        name = f"admin:background_task_{model._meta.model_name}_{page}"
        return reverse(name, args=args)

    def listed(self, model):
        """Return the rows of a list, the newest first, as the browser gets them."""
        html = self.page(model).content.decode()
        return re.findall(r"<tr>.*?</tr>", html.partition("<tbody>")[2], re.S)

    def act(self, action, tasks):
        return self.client.post(
            reverse("admin:background_task_task_changelist"),
            {"action": action, "_selected_action": [task.pk for task in tasks]},
        )

    def test_tasks_are_listed_with_upstreams_columns(self):
        make_runner("alive")
        make_claimed_task("app.tasks.held", locked_by="alive")
        make_task("app.tasks.waiting", last_error="oops")

        page = self.page(Task)

        self.assertContains(page, "app.tasks.held")
        self.assertContains(page, "app.tasks.waiting")
        theirs = (
            "task_name",
            "task_params",
            "run_at",
            "priority",
            "attempts",
            "has_error",
            "locked_by",
            "locked_by_pid_running",
        )
        ours = {"task_params": "arguments", "run_at": "planned_at"}
        ours |= {"locked_by": "holder", "task_name": "named"}
        for model in (Task, CompletedTask):
            listed = admin.site._registry[model].list_display
            self.assertLessEqual(set(theirs), set(listed))
        shown = page.context["cl"].list_display
        self.assertLessEqual({ours.get(name, name) for name in theirs}, set(shown))

    def test_completed_tasks_are_listed(self):
        make_task("app.tasks.ended").create_completed_task()

        self.assertContains(self.page(CompletedTask), "app.tasks.ended")

    def test_a_success_looks_like_one_and_a_failure_says_why(self):
        make_task("app.tasks.fine").create_completed_task()
        error = 'Traceback (most recent call last):\n  File "x"\nValueError: why\n'
        failed = make_task("app.tasks.bad", last_error=error, failed_at=NOW)
        failed.create_completed_task()
        make_task("app.tasks.late", last_error="Stopped after 2 s", failed_at=NOW)

        bad, fine = self.listed(CompletedTask)
        [late] = (row for row in self.listed(Task) if "app.tasks.late" in row)

        self.assertIn("icon-yes", fine)
        self.assertNotIn("icon-no", fine)
        self.assertIn("icon-no", bad)
        self.assertIn("ValueError: why", bad)
        self.assertNotIn("Traceback", bad)
        self.assertIn("Stopped after 2 s", late)

    def test_who_holds_the_tasks_is_asked_once_for_all_of_them(self):
        make_runner("alive")
        make_runner("lapsed", trusted_for=-timedelta(seconds=1))
        for model in (Task, CompletedTask):
            counts = []
            for _ in range(2):
                for holder in ("alive", "lapsed", "unknown", str(os.getpid())):
                    task, _ = make_claimed_task(f"held by {holder}", locked_by=holder)
                    task.create_completed_task()
                with CaptureQueriesContext(connection) as queries:
                    rows = self.listed(model)
                counts.append(len(queries))
            self.assertEqual(counts[0], counts[1])
        icons = {
            holder: next(row for row in self.listed(Task) if f"held by {holder}" in row)
            for holder in ("alive", "lapsed", "unknown", str(os.getpid()))
        }
        self.assertIn("icon-yes", icons["alive"])
        self.assertIn("icon-no", icons["lapsed"])
        self.assertIn("icon-no", icons["unknown"])
        self.assertIn("icon-yes", icons[str(os.getpid())])
        # Of what has ended it is no news, good or bad.
        self.assertFalse([row for row in rows if "icon-no" in row])

    def test_a_task_that_is_added_can_run(self):
        address = self.address(Task, "add")
        form = self.client.get(address).context["adminform"].form
        now = timezone.localtime(form["run_at"].value())
        values = form_values(form) | {"task_name": "app.add"}
        values |= {"run_at_0": now.date(), "run_at_1": f"{now:%H:%M:%S}"}
        for wrong in (
            *("", "7", "{}", "[7]", '[7, {"a": 1}]', "[[7], []]", "[[7], {}"),
            "[" * 100_000,
        ):
            with self.subTest(wrong[:20]):
                answer = self.client.post(address, values | {"task_params": wrong})

                self.assertIn("task_params", answer.context["adminform"].form.errors)
        self.assertEqual(Task.objects.count(), 0)

        self.client.post(address, values | {"task_params": '[[7], {"b": 1,"a":2}]'})

        task = Task.objects.get_task("app.add", [7], {"a": 2, "b": 1}).get()
        self.assertIn(task, Task.objects.find_available())

    def test_what_has_ended_is_not_made_by_hand(self):
        address = self.address(CompletedTask, "add")

        self.assertEqual(self.client.get(address).status_code, 403)

    def test_a_form_leaves_what_it_cannot_choose_from_as_it_is(self):
        task = make_task(repeat=90, task_params="[1, {}]")
        address = self.address(Task, "change", task.pk)
        form = self.client.get(address).context["adminform"].form
        self.assertInHTML(
            '<option value="90" selected>every 90 s</option>', str(form["repeat"])
        )
        values = form_values(form) | {"priority": 9}

        answer = self.client.post(address, values)

        self.assertEqual(answer.status_code, 302)
        task.refresh_from_db()
        self.assertEqual(
            (task.priority, task.repeat, task.task_params), (9, 90, "[1, {}]")
        )

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_one_that_is_never_to_run_stays_so(self):
        task = make_task(run_at=datetime(9999, 12, 31, 23, tzinfo=UTC), repeat=60)
        Task.objects.update(repeat_from=timezone.now())
        address = self.address(Task, "change", task.pk)
        form = self.client.get(address).context["adminform"].form
        values = form_values(form) | {"priority": 9}

        answer = self.client.post(address, values)

        self.assertEqual(answer.status_code, 302)
        task.refresh_from_db()
        self.assertEqual((task.priority, f"{task.run_at:%Y-%m-%d}"), (9, "9999-12-31"))
        self.assertIsNotNone(task.repeat_from)

    def test_a_repeat_is_counted_from_where_it_is_moved_to(self):
        planned = timezone.now() - timedelta(hours=3)
        task = make_task(repeat=Task.DAILY, repeat_from=planned)
        address = self.address(Task, "change", task.pk)
        form = self.client.get(address).context["adminform"].form
        moment = form["run_at"].value()
        values = form_values(form) | {"priority": 9}

        for moved, repeat_from in ((moment, planned), (planned, None)):
            local = timezone.localtime(moved)
            values |= {"run_at_0": local.date(), "run_at_1": f"{local:%H:%M:%S}"}
            self.assertEqual(self.client.post(address, values).status_code, 302)
            task.refresh_from_db()
            self.assertEqual((task.priority, task.repeat_from), (9, repeat_from))

    def test_a_form_that_was_opened_before_a_retry_leaves_its_moment_alone(self):
        task = make_task(repeat=Task.DAILY, run_at=timezone.now() - timedelta(hours=1))
        address = self.address(Task, "change", task.pk)
        page = self.client.get(address).content.decode()
        given = re.findall(r'name="((?:initial-)?run_at_[01])" value="([^"]+)"', page)
        backed_off, planned = timezone.now() + timedelta(hours=5), task.run_at
        Task.objects.update(run_at=backed_off, repeat_from=planned, attempts=1)
        form = self.client.get(address).context["adminform"].form
        values = form_values(form) | dict(given) | {"priority": 9}

        self.assertEqual(self.client.post(address, values).status_code, 302)

        self.assertEqual(len(given), 4)
        task.refresh_from_db()
        self.assertEqual((task.priority, task.run_at), (9, backed_off))
        self.assertEqual(task.repeat_from, planned)

    def test_tasks_are_deleted(self):
        for model in (Task, CompletedTask):
            task = make_task()
            row = task if model is Task else task.create_completed_task()
            chosen = {"action": "delete_selected", "_selected_action": [row.pk]}

            self.client.post(
                self.address(model, "changelist"), chosen | {"post": "yes"}
            )

            self.assertFalse(model.objects.filter(pk=row.pk).exists())

    def test_priorities_go_up_and_down(self):
        one, two, other = (make_task(priority=number) for number in (1, 2, 3))

        self.act("inc_priority", [one, two])
        self.assertEqual(self.priorities(one, two, other), [2, 3, 3])
        self.act("dec_priority", [one])
        self.assertEqual(self.priorities(one, two, other), [1, 3, 3])

    def test_the_actions_have_upstreams_names(self):
        make_task()

        page = self.page(Task)

        self.assertContains(page, "priority += 1")
        self.assertContains(page, "priority -= 1")

    def test_an_abandoned_task_is_to_be_seen(self):
        task, claim = make_claimed_task("app.tasks.abandoned")
        books.abandon(claim, "oops")

        page = self.page(Task)

        self.assertContains(page, "app.tasks.abandoned")
        self.assertContains(page, "oops")
        address = reverse("admin:background_task_task_change", args=[task.pk])
        self.assertContains(self.client.get(address), "oops")

    def test_a_form_that_is_saved_while_the_task_runs_leaves_the_claim_alone(self):
        task = make_task()
        address = reverse("admin:background_task_task_change", args=[task.pk])
        form = self.client.get(address).context["adminform"].form
        values = form_values(form) | {"priority": 9}
        claimed = task.lock("a-runner")

        answer = self.client.post(address, values)

        self.assertEqual(answer.status_code, 302)
        now = Task.objects.get(pk=task.pk)
        self.assertEqual(now.priority, 9)
        self.assertEqual(
            (now.locked_by, now.locked_at), ("a-runner", claimed.locked_at)
        )

    def test_who_may_only_look_at_tasks_changes_no_priority(self):
        task = make_task()
        clerk = User.objects.create_user("clerk", is_staff=True)
        clerk.user_permissions.add(Permission.objects.get(codename="view_task"))
        self.client.force_login(clerk)

        self.act("inc_priority", [task])

        self.assertEqual(self.priorities(task), [0])
        self.assertNotContains(self.page(Task), "priority += 1")

    def test_projects_may_put_a_subclass_in_its_place(self):
        class MyTaskAdmin(TaskAdmin):
            list_filter = ("task_name",)

        site = admin.AdminSite()
        site.register(Task, MyTaskAdmin)
        request = RequestFactory().get("/")
        request.user = User(is_superuser=True, is_active=True)

        actions = site._registry[Task].get_actions(request)

        self.assertLessEqual({"inc_priority", "dec_priority"}, set(actions))
        self.assertEqual(site._registry[Task].check(), [])

    def test_what_is_redacted_is_not_found_by_search_fields_of_a_projects_own(self):
        secret = make_task("nobody.here.knows_it", ("ann", "letmein"))
        open_ = make_task("tests.app.tasks.note", ("letmein",), queue="mail")
        registered = admin.site._registry[Task]
        fields = [*registered.search_fields, "queue", "=task_hash"]
        columns = ["task_name", "task_hash"]

        with (
            patch.object(registered, "search_fields", fields),
            patch.object(registered, "list_display", columns),
        ):
            address = self.address(Task, "changelist")
            pages = [
                self.client.get(address, {"q": text}).context["cl"]
                for text in ("letme", secret.task_hash, "mail")
            ]
            listed = self.client.get(address)

        found = [[row.pk for row in page.result_list] for page in pages]
        self.assertEqual(found, [[], [], [open_.pk]])
        self.assertContains(listed, open_.task_hash)
        self.assertNotContains(listed, secret.task_hash)

    def test_projects_may_have_columns_edited_in_the_list(self):
        registered = admin.site._registry[Task]
        editable = ["run_at", "queue"]
        with patch.object(registered, "list_editable", editable):
            task = make_task()
            later = timezone.localtime() + timedelta(days=1)
            page = self.page(Task)
            form = page.context["cl"].formset
            values = {
                "form-TOTAL_FORMS": 1,
                "form-INITIAL_FORMS": 1,
                "form-0-id": task.pk,
                "form-0-run_at_0": f"{later:%Y-%m-%d}",
                "form-0-run_at_1": f"{later:%H:%M:%S}",
                "form-0-queue": "mail",
                "_save": "Save",
            }
            self.client.post(page.request["PATH_INFO"], values)

        self.assertEqual(set(form.forms[0].fields), {"id", *editable})
        self.assertContains(page, 'name="form-0-run_at_0"')
        task.refresh_from_db()
        self.assertEqual(task.run_at, later.replace(microsecond=0))
        self.assertEqual(task.queue, "mail")

    def test_runners_are_to_be_looked_at_only(self):
        runner = make_runner()
        address = reverse("admin:background_task_runner_change", args=[runner.pk])

        self.assertContains(self.page(Runner), "a-host")
        self.assertEqual(self.client.get(address).status_code, 200)
        self.assertEqual(self.client.post(address, {}).status_code, 403)
        add = reverse("admin:background_task_runner_add")
        self.assertEqual(self.client.get(add).status_code, 403)
        delete = reverse("admin:background_task_runner_delete", args=[runner.pk])
        self.assertEqual(self.client.post(delete, {"post": "yes"}).status_code, 403)

    def priorities(self, *tasks):
        by_id = dict(Task.objects.values_list("pk", "priority"))
        return [by_id[task.pk] for task in tasks]


@skipIf(connection.vendor == "sqlite", "there is one lock for all")
class EndingTests(TransactionTestCase):
    def test_one_that_ends_while_its_form_is_saved_is_led_from(self):
        self.client.force_login(User.objects.create_superuser("root"))
        task = make_task()
        address = reverse("admin:background_task_task_change", args=[task.pk])
        form = self.client.get(address).context["adminform"].form
        values = form_values(form) | {"priority": 9}

        def end():
            task.create_completed_task()
            task.delete()
            connections.close_all()

        def in_another_session():
            thread = threading.Thread(target=end)
            thread.start()
            thread.join()

        with somebody_else(
            in_another_session, before=lambda sql: sql.startswith("UPDATE")
        ):
            answer = self.client.post(address, values)

        completed = CompletedTask.objects.get()
        place = reverse(
            "admin:background_task_completedtask_change", args=[completed.pk]
        )
        self.assertRedirects(answer, place)
