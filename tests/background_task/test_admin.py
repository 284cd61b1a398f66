from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import RequestFactory, TestCase
from django.urls import reverse

from background_task import books
from background_task.admin import TaskAdmin
from background_task.models import CompletedTask, Runner, Task

from .tools import make_claimed_task, make_runner, make_task


class AdminTests(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("root"))

    def page(self, model):
        address = reverse(f"admin:background_task_{model._meta.model_name}_changelist")
        return self.client.get(address)

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
        self.assertEqual(
            tuple(page.context["cl"].list_display)[1:],
            (
                "task_name",
                "task_params",
                "run_at",
                "priority",
                "attempts",
                "has_error",
                "locked_by",
                "locked_by_pid_running",
            ),
        )

    def test_completed_tasks_are_listed(self):
        make_task("app.tasks.ended").create_completed_task()

        self.assertContains(self.page(CompletedTask), "app.tasks.ended")

    def test_tasks_are_searched_by_name_and_arguments(self):
        make_task("app.tasks.one", ("needle",))
        make_task("app.tasks.two")
        address = reverse("admin:background_task_task_changelist")

        page = self.client.get(address, {"q": "needle"})

        self.assertContains(page, "app.tasks.one")
        self.assertNotContains(page, "app.tasks.two")

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
        self.assertContains(page, "icon-yes")  # it has an error
        address = reverse("admin:background_task_task_change", args=[task.pk])
        self.assertContains(self.client.get(address), "oops")

    def test_a_form_that_is_saved_while_the_task_runs_leaves_the_claim_alone(self):
        task = make_task()
        address = reverse("admin:background_task_task_change", args=[task.pk])
        form = self.client.get(address).context["adminform"].form
        values = {name: form[name].value() for name in form.fields}
        values = {n: "" if v is None else v for n, v in values.items()}
        moment = values.pop("run_at")
        values |= {"run_at_0": moment.date(), "run_at_1": moment.time()}
        values |= {"repeat_until_0": "", "repeat_until_1": "", "priority": 9}
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
