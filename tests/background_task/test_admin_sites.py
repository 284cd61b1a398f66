from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import TestCase, override_settings
from django.urls import path

from background_task.admin import (
    AttemptAdmin,
    CompletedTaskAdmin,
    RunnerAdmin,
    TaskAdmin,
)
from background_task.models import Attempt, CompletedTask, Control, Runner, Task

from .test_dashboard import entry, make_telling_runner
from .tools import make_claimed_task, make_task


class OurTaskAdmin(TaskAdmin):
    def has_view_permission(self, request, obj=None):
        return request.user.username == "boss"

    has_change_permission = has_view_permission


class OurRunnerAdmin(RunnerAdmin):
    def has_view_permission(self, request, obj=None):
        return False


ours = admin.AdminSite(name="ours")
ours.register(Task, OurTaskAdmin)
ours.register(CompletedTask, CompletedTaskAdmin)
ours.register(Runner, RunnerAdmin)
ours.register(Attempt, AttemptAdmin)

theirs = admin.AdminSite(name="theirs")
theirs.register(Task, TaskAdmin)
theirs.register(Runner, OurRunnerAdmin)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("ours/", ours.urls),
    path("theirs/", theirs.urls),
]

TASKS = "/ours/background_task/task/"


@override_settings(ROOT_URLCONF=__name__)
class SiteTests(TestCase):
    """A project's own admin, beside Django's."""

    def setUp(self):
        super().setUp()
        self.boss = User.objects.create_superuser("boss")

    def see(self, address, user=None):
        self.client.force_login(user or self.boss)
        return self.client.get(address)

    def clerk(self):
        names = "view_task", "view_runner", "control_task"
        clerk = User.objects.create_user("clerk", is_staff=True)
        clerk.user_permissions.add(*Permission.objects.filter(codename__in=names))
        return clerk

    def test_its_pages_lead_to_one_another(self):
        running, _ = make_claimed_task()
        runner = make_telling_runner(running=[entry(running)])
        waiting = make_task()
        attempt = Attempt.objects.create(
            task_id=waiting.pk, number=1, outcome="Failed", ended_at=waiting.run_at
        )

        button = self.see(f"{TASKS}{waiting.pk}/change/")
        runner_page = f"/ours/background_task/runner/{runner.pk}/change/"
        try_page = f"/ours/background_task/attempt/{attempt.pk}/change/"
        pages = [
            self.see(f"{TASKS}{running.pk}/change/"),
            self.see("/ours/background_task/runner/"),
            self.see(runner_page),
            self.see(try_page),
            self.see(f"{TASKS}dashboard/"),
        ]

        self.assertContains(button, f'formaction="{TASKS}{waiting.pk}/do/run_now/"')
        self.assertContains(pages[0], runner_page)
        for page in pages[1:3]:
            self.assertContains(page, f"{TASKS}{running.pk}/change/")
        self.assertContains(pages[3], f"{TASKS}{waiting.pk}/change/")
        for page in (button, *pages):
            self.assertNotContains(page, '="/admin/')

    def test_who_is_kept_out_of_the_list_is_kept_out_of_the_dashboard(self):
        clerk, board = self.clerk(), f"{TASKS}dashboard/"

        self.assertEqual(self.see(TASKS, clerk).status_code, 403)
        self.assertEqual(self.see(board, clerk).status_code, 403)
        asked = self.client.post(f"{board}pause/", {"target": "mail"})
        self.assertEqual(asked.status_code, 403)
        self.assertFalse(Control.objects.exists())
        runners = self.see("/ours/background_task/runner/", clerk)
        self.assertNotContains(runners, "dashboard/")
        self.assertContains(self.see("/ours/background_task/runner/"), board)

    def test_so_is_who_is_kept_out_of_a_part_of_it(self):
        make_telling_runner()

        page = self.see("/theirs/background_task/task/dashboard/", self.clerk())

        self.assertEqual(page.status_code, 200)
        self.assertNotContains(page, "bgt-runners")
