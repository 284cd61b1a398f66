"""What the dashboard says, and who may do what there."""

from datetime import UTC, datetime, timedelta
from unittest import mock

from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import SimpleTestCase, TestCase
from django.test.utils import CaptureQueriesContext, override_settings
from django.urls import reverse
from django.utils import timezone, translation

from background_task import control, dashboard, diagnosis
from background_task.dashboard import counts, tries
from background_task.display import error_line
from background_task.models import Attempt, Control, Runner, Task

from .tools import KNOWN, make_claimed_task, make_runner, make_task

HOUR = timedelta(hours=1)
BOARD = "/admin/background_task/task/dashboard/"
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line {n}\n{error}'


def make_attempts(*outcomes, **columns):
    """Save tries that ended a moment ago."""
    columns.setdefault("ended_at", timezone.now() - timedelta(seconds=5))
    columns.setdefault("task_name", "app.tasks.job")
    return [
        Attempt.objects.create(task_id=n, number=1, outcome=outcome, **columns)
        for n, outcome in enumerate(outcomes, 1)
    ]


def make_telling_runner(id="a-runner", **columns):
    """Save a runner that tells of itself, as `process_tasks` of today does."""
    told = {"lease": 30, "slots": 4, "queues": [], "draining": False, "running": []}
    runner = make_runner(id)
    Runner.objects.filter(pk=runner.pk).update(**told | columns)
    return runner


def entry(task, **more):
    """Return what a runner tells of a try."""
    told = {"task": task.pk, "name": task.task_name, "pid": 4711, "began": 0}
    return told | {"held": 2**20, "memory": None, "seconds": 60} | more


class Forgetful(TestCase):
    def setUp(self):
        dashboard.forget()
        self.addCleanup(dashboard.forget)

    def states(self):
        dashboard.forget()
        return [it.state.value for it in diagnosis.diagnose(dashboard.look())]


class LookTests(Forgetful):
    def test_runners_that_are_not_shown_count(self):
        for n in range(102):
            queues = ["rare"] if n == 0 else ["mail"]
            make_telling_runner(f"runner {n}", queues=queues)
        Runner.objects.filter(pk="runner 0").update(
            trusted_until=timezone.now() + timedelta(seconds=1)
        )
        make_task(queue="rare")

        seen = dashboard.look()

        self.assertEqual((len(seen.alive), seen.slots), (102, 408))
        self.assertEqual((len(seen.shown_runners), seen.more_runners), (100, 2))
        self.assertNotIn("no-runner", self.states())

    def test_who_may_not_see_tries_is_told_of_none(self):
        make_telling_runner()
        make_attempts(*["Failed"] * 8)

        seen = dashboard.look()
        (told,) = diagnosis.diagnose(seen)
        (untold,) = diagnosis.diagnose(seen, tries=False)

        self.assertEqual(told.state, diagnosis.State.FAILING)
        self.assertEqual(untold.state, diagnosis.State.HEALTHY)

    def test_depth_and_the_age_of_the_oldest_are_told_by_queue(self):
        now = timezone.now()
        make_task(queue="mail", run_at=now - timedelta(hours=2))
        make_task(queue="mail", run_at=now - timedelta(hours=1))
        make_task(queue="mail", run_at=now + timedelta(hours=1))
        make_task(queue="a/b c")
        make_task()
        make_claimed_task(queue="held")
        make_task(queue="given up", failed_at=now)

        queues = {queue.name: queue for queue in dashboard.look().queues}

        self.assertEqual(list(queues), [None, "a/b c", "held", "mail"])
        self.assertEqual(queues["held"].waiting.number, 0)
        mail = queues["mail"]
        self.assertEqual((mail.due.number, mail.waiting.number), (2, 3))
        self.assertEqual(mail.oldest, now - timedelta(hours=2))

    def test_counts_end_somewhere(self):
        for _ in range(4):
            make_task(queue="mail")
        with bounded(counts, "COUNTED", 3):
            seen = dashboard.look()

        self.assertEqual(str(seen.depth.due), "3+")
        self.assertEqual(str(seen.queues[0].waiting), "3+")

    def test_a_paused_queue_and_one_that_is_served_by_name_are_shown_when_empty(self):
        control.pause("mail", "nina")
        control.pause(control.NO_QUEUE, "nina")
        make_telling_runner(queues=["slow"])

        queues = {queue.name: queue for queue in dashboard.look().queues}

        self.assertEqual(list(queues), [None, "mail", "slow"])
        self.assertEqual(queues["mail"].pause.by, "nina")
        self.assertFalse(queues["mail"].is_served)

    def test_a_runner_that_drains_serves_nothing(self):
        make_task(queue="mail")
        make_telling_runner("drains", draining=True)
        make_telling_runner("serves", queues=["news"])

        queues = {queue.name: queue for queue in dashboard.look().queues}

        self.assertFalse(queues["mail"].is_served)
        self.assertTrue(queues["news"].is_served)
        it, *_ = diagnosis.diagnose(dashboard.look())
        self.assertIn("No runner serves queue mail", it.sentence)

    def test_what_runs_is_told_with_progress_and_who_stops_it(self):
        progress = {"progress_done": 3, "progress_total": 4}
        task, _ = make_claimed_task(**progress, progress_message="three")
        make_claimed_task()
        make_telling_runner(running=[entry(task, memory=2**21)])
        control.stop([task.pk], "nina")

        seen = dashboard.look()

        (running,) = seen.running
        self.assertEqual((running.task, running.percent), (task.pk, 75))
        self.assertEqual(running.stopped_by, "nina")
        self.assertTrue(running.runner.is_alive)
        self.assertEqual(seen.brief.number, 1)

    def test_what_no_runner_holds_and_what_is_not_shown_have_sentences(self):
        tasks = [make_claimed_task()[0] for _ in range(4)]
        make_telling_runner(running=[entry(task) for task in tasks[:3]])
        Task.objects.filter(pk=tasks[3].pk).update(locked_by="4711")
        self.client.force_login(User.objects.create_superuser("root"))
        with mock.patch.object(dashboard.runners, "ROWS", 2):
            seen = dashboard.look()
            page = self.client.get(BOARD)

        self.assertEqual((len(seen.running), seen.more), (2, 1))
        self.assertEqual((seen.strangers.number, seen.brief.number), (1, 0))
        self.assertContains(page, "1 more runs.")
        self.assertContains(page, "1 task is held by a process that is no runner")

    def test_what_is_due_is_seen_behind_queues_in_which_nothing_is(self):
        for number in range(4):
            make_task(queue=f"a{number}", run_at=timezone.now() + timedelta(days=1))
        make_task(queue="zzz", run_at=timezone.now() - timedelta(hours=2))
        make_telling_runner("other", queues=["a0"])
        with mock.patch.object(dashboard.depth, "QUEUES", 2):
            seen = dashboard.look()

        self.assertEqual([queue.name for queue in seen.queues], ["a0", "zzz"])
        self.assertTrue(seen.depth.has_more)
        it, *_ = diagnosis.diagnose(seen)
        self.assertIn("No runner serves queue zzz", it.sentence)

    def test_a_runner_whose_lease_is_over_is_told_as_not_heard_of(self):
        make_telling_runner("dead")
        old = timezone.now() - timedelta(minutes=3)
        Runner.objects.update(trusted_until=old)
        make_telling_runner("alive")

        runners = {seen.row.pk: seen for seen in dashboard.look().runners}

        self.assertFalse(runners["dead"].is_alive)
        self.assertAlmostEqual(runners["dead"].silent, 210, delta=20)
        self.assertTrue(runners["alive"].is_alive)

    def test_a_task_of_a_dead_runner_that_runs_again_is_shown_once(self):
        task, _ = make_claimed_task()
        make_telling_runner("dead", running=[entry(task)])
        Runner.objects.update(trusted_until=timezone.now() - timedelta(minutes=3))
        make_telling_runner("alive", running=[entry(task)])

        (running,) = dashboard.look().running

        self.assertEqual(running.runner.row.pk, "alive")

    def test_one_of_an_older_version_tells_nothing_and_is_shown(self):
        make_runner("old")

        (seen,) = dashboard.look().runners

        self.assertIsNone(seen.silent)
        self.assertTrue(seen.serves("anything"))

    def test_tries_of_the_last_hour_and_day_are_counted(self):
        now = timezone.now()
        make_attempts("Succeeded", "Failed", "Cancelled")
        make_attempts("TimedOut", ended_at=now - timedelta(hours=3))
        make_attempts("Failed", ended_at=now - timedelta(hours=25))

        seen = dashboard.look().tries

        self.assertTrue(seen.is_all)
        self.assertEqual((seen.hour.ended.number, seen.hour.failed.number), (3, 1))
        self.assertEqual((seen.day.ended.number, seen.day.failed.number), (4, 2))
        last = seen.hour.bars[-1]
        self.assertEqual((last.succeeded, last.failed), (2, 1))

    def test_of_too_many_tries_the_newest_are_counted_and_the_rest_is_unknown(self):
        now = timezone.now()
        for minutes in range(10):
            make_attempts("Succeeded", ended_at=now - timedelta(minutes=minutes * 5))
        with bounded(tries, "TRIES", 4):
            seen = dashboard.look().tries

        self.assertFalse(seen.is_all)
        self.assertEqual(str(seen.hour.ended), "4+")
        known = [bar.is_known for bar in seen.hour.bars]
        self.assertEqual((known[0], known[-1]), (False, True))
        self.assertEqual(sum(bar.succeeded for bar in seen.hour.bars), 4)

    def test_quantiles_are_told_by_name(self):
        for number in range(1, 101):
            ended_at = timezone.now()
            began = ended_at - timedelta(seconds=number)
            columns = {"ended_at": ended_at, "started_at": began, "waited": number / 10}
            make_attempts("Succeeded", peak_memory=number << 20, **columns)
        make_attempts("Failed", task_name="app.tasks.other")

        job, other = dashboard.look().tries.names

        self.assertEqual((job.name, job.tries, job.failed), ("app.tasks.job", 100, 0))
        self.assertEqual((job.duration.p50, job.duration.p95), (50, 95))
        self.assertEqual((job.wait.p50, job.wait.p95), (5, 9.5))
        self.assertEqual((job.memory.p50, job.memory.p95), (50 << 20, 95 << 20))
        self.assertEqual((other.failed, other.duration), (1, None))

    def test_failures_are_grouped_by_what_they_have_in_common(self):
        for n in (1, 22):
            error = TRACEBACK.format(n=n, error=f"KeyError: 'order {n}'")
            make_attempts("Failed", error=error, task_name=f"app.tasks.job_{n}")
        long = TRACEBACK.format(n=1, error="x" * 10_000 + "\nKeyError: 'order 7'")
        (newest,) = make_attempts("Failed", error=long)
        make_attempts("Crashed", error="Crashed: the process was killed by SIGSEGV")
        make_attempts("Cancelled", error="Cancelled by nina")

        groups = dashboard.look().tries.failures

        told = {group.error: group for group in groups}
        self.assertEqual(
            list(told),
            ["KeyError: 'order …'", "Crashed: the process was killed by SIGSEGV"],
        )
        common = told["KeyError: 'order …'"]
        self.assertEqual((common.tries, common.example), (3, newest.pk))
        self.assertEqual(len(common.shown), 3)

    def test_what_costs_is_kept_for_some_seconds_and_forgotten_on_demand(self):
        first = dashboard.look()
        make_attempts("Succeeded")
        make_task()
        self.assertIs(dashboard.look().tries, first.tries)
        self.assertIs(dashboard.look().depth, first.depth)

        dashboard.forget()

        self.assertEqual(dashboard.look().tries.hour.ended.number, 1)


class NormalisedTests(SimpleTestCase):
    def test_numbers_addresses_and_digests_are_left_out(self):
        for error, common in {
            "order 42 of 7": "order … of …",
            "<Order object at 0x7f1Ab2>": "<Order object at …>",
            "no 123e4567-e89b-12d3-a456-426614174000": "no …",
            "blob d41d8cd98f00b204e9800998ecf8427e": "blob …",
            "took 3.5 s at 12:30:01": "took … s at …",
            "a facade decade": "a facade decade",
        }.items():
            self.assertEqual(tries.normalised(error), common)

    def test_an_error_is_said_by_one_line(self):
        self.assertEqual(error_line("", ""), "")
        self.assertEqual(error_line("Lost\nmore", "Lost\nmore"), "Lost")


class DiagnosisTests(Forgetful):
    def test_nobody_runs_tasks(self):
        self.assertEqual(self.states(), ["no-runner"])

        (told,) = diagnosis.diagnose(dashboard.look())
        self.assertEqual(told.command, "python manage.py process_tasks")

    def test_nobody_is_heard_of_or_all_drain(self):
        make_telling_runner()
        Runner.objects.update(trusted_until=timezone.now() - timedelta(hours=1))
        self.assertEqual(self.states(), ["no-runner"])

        later = timezone.now() + timedelta(hours=1)
        Runner.objects.update(trusted_until=later, draining=True)
        self.assertEqual(self.states(), ["no-runner"])

    def test_nobody_serves_a_queue_in_which_something_is_due(self):
        make_telling_runner(queues=["mail"])
        make_task(queue="so slow", run_at=timezone.now())

        self.assertEqual(self.states(), ["no-runner"])
        (told,) = diagnosis.diagnose(dashboard.look())
        self.assertIn("--queue 'so slow'", told.command)

    def test_all_is_well(self):
        make_telling_runner()
        self.assertEqual(self.states(), ["healthy"])

        make_task(run_at=timezone.now())
        self.assertEqual(self.states(), ["healthy"])

    def test_names_that_nobody_registers(self):
        make_telling_runner()
        task = make_task("shop.tasks.mail", run_at=timezone.now())
        self.assertEqual(self.states(), ["healthy"])

        Task.objects.filter(pk=task.pk).update(run_at=timezone.now() - HOUR)
        self.assertEqual(self.states(), ["unregistered", "backlog"])
        dashboard.forget()
        told, _ = diagnosis.diagnose(dashboard.look())
        self.assertEqual(
            told.sentence,
            "1 due task is of a name that no tasks.py here registers: shop.tasks.mail.",
        )

    def test_a_backlog(self):
        make_telling_runner()
        make_task(KNOWN, run_at=timezone.now() - timedelta(minutes=5))

        self.assertEqual(self.states(), ["backlog"])

    def test_a_pause_of_one_queue_or_of_all(self):
        make_telling_runner()
        make_task(queue="mail", run_at=timezone.now() - timedelta(minutes=5))
        control.pause("mail", "nina")
        self.assertEqual(self.states(), ["paused"])

        control.pause(control.EVERY_QUEUE, "nina")
        self.assertEqual(self.states(), ["paused", "paused"])

    def test_failures_are_said_before_a_backlog(self):
        make_telling_runner()
        make_task(KNOWN, run_at=timezone.now() - timedelta(minutes=5))
        make_attempts(*["Failed"] * 5, *["Succeeded"] * 5)

        self.assertEqual(self.states(), ["failing", "backlog"])

    def test_a_few_failures_among_many_tries_are_none(self):
        make_telling_runner()
        make_attempts(*["Failed"] * 5, *["Succeeded"] * 40)

        self.assertEqual(self.states(), ["healthy"])


class PageTests(Forgetful):
    def setUp(self):
        super().setUp()
        self.root = User.objects.create_superuser("root")

    def see(self, user, query=""):
        self.client.force_login(user)
        return self.client.get(BOARD + query)

    def staff(self, *codenames):
        user = User.objects.create_user("viewer", is_staff=True)
        for codename in codenames:
            content_type = ContentType.objects.get_for_model(Task)
            if not codename.startswith("control"):
                model = codename.partition("_")[2]
                content_type = ContentType.objects.get(
                    app_label="background_task", model=model
                )
            permission, _ = Permission.objects.get_or_create(
                codename=codename, content_type=content_type
            )
            user.user_permissions.add(permission)
        return user

    def fill(self):
        task, _ = make_claimed_task(
            "app.<b>tasks</b>.job", progress_done=1, progress_total=2
        )
        other, _ = make_claimed_task(progress_done=123_456)
        make_task(queue="a/b <i>")
        running = [entry(task, memory=2**30), entry(other, held=None)]
        make_telling_runner(running=running)
        make_runner("older")
        make_attempts("Failed", error="ValueError: <script>1</script>")
        make_attempts("Succeeded", started_at=timezone.now(), peak_memory=2**20)
        control.pause("a/b <i>", "ni<u>na")

    def test_all_is_shown_and_nothing_of_it_is_markup(self):
        self.fill()

        page = self.see(self.root)

        self.assertContains(page, "app.&lt;b&gt;tasks")
        self.assertContains(page, "ValueError: &lt;script&gt;…&lt;/script&gt;")
        self.assertContains(page, "a/b &lt;i&gt;")
        self.assertContains(page, "ni&lt;u&gt;na")
        self.assertContains(page, 'value="50"')
        self.assertContains(page, 'data-label="Process">a-host <small>pid ', 2)
        for inline in ("<script>", "style=", " onclick", "<style"):
            self.assertNotContains(page, inline)

    def test_an_outcome_of_a_later_version_is_shown_as_it_is(self):
        make_attempts("Evicted")

        self.assertContains(self.see(self.root), "Evicted")

    def test_the_part_that_changes_is_had_alone(self):
        self.fill()

        part = self.see(self.root, "?live")

        self.assertNotContains(part, "<html")
        self.assertContains(part, "bgt-health")
        self.assertIn("no-cache", part["Cache-Control"])

    @override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="de")
    def test_numbers_that_a_browser_reads_are_not_written_for_people(self):
        self.fill()
        Task.objects.filter(progress_total=2).update(progress_done=1_999_999)

        with translation.override("de"):
            page = self.see(self.root).content.decode()

        self.assertIn('max="1073741824"', page)
        self.assertIn("123.456", page)

    def test_empty_tables_say_what_to_do(self):
        page = self.see(self.root)

        self.assertContains(page, "python manage.py process_tasks")
        self.assertContains(page, "No task waits")

    def test_a_look_asks_as_many_queries_whatever_there_is(self):
        self.fill()
        self.see(self.root)
        dashboard.forget()
        with CaptureQueriesContext(connection) as few:
            self.see(self.root)
        for n in range(5):
            task, _ = make_claimed_task()
            make_telling_runner(f"runner-{n}", running=[entry(task)])
            make_attempts("Failed", error="x")
        dashboard.forget()
        with CaptureQueriesContext(connection) as many:
            self.see(self.root)

        self.assertEqual(len(many), len(few))

    def test_who_may_only_view_sees_no_button_and_may_do_nothing(self):
        self.fill()
        viewer = self.staff("view_task", "view_attempt", "view_runner")

        page = self.see(viewer)

        self.assertContains(page, "Running now")
        for word in ("dashboard/stop", "dashboard/pause", "dashboard/drain", "<form m"):
            self.assertNotContains(page, word)
        for verb in ("stop", "pause", "resume", "drain"):
            address = f"{BOARD}{verb}/"
            self.assertEqual(self.client.get(address).status_code, 403)
            asked = self.client.post(address, {"target": "mail"})
            self.assertEqual(asked.status_code, 403)
        self.assertEqual(Control.objects.count(), 1)

    def test_tries_and_runners_are_seen_by_those_who_may_see_them(self):
        self.fill()

        page = self.see(self.staff("view_task"))

        self.assertNotContains(page, "ValueError")
        self.assertNotContains(page, "bgt-runners")

    def test_others_see_nothing(self):
        self.assertEqual(self.see(self.staff()).status_code, 403)
        self.client.logout()
        self.assertRedirects(self.client.get(BOARD), f"/admin/login/?next={BOARD}")

    def test_operators_need_no_more_than_the_one_permission(self):
        operator = self.staff("view_task", "control_task")
        self.client.force_login(operator)

        self.client.post(f"{BOARD}pause/", {"target": "mail"})

        self.assertEqual(control.paused().get().by, "viewer")

    def test_what_is_asked_is_done_and_said(self):
        task, _ = make_claimed_task()
        make_telling_runner()
        self.client.force_login(self.root)
        for verb, target, said in (
            ("stop", task.pk, "is being stopped"),
            ("stop", 999, "does not run any more"),
            ("stop", "rubbish", "does not run any more"),
            ("stop", "9" * 50, "does not run any more"),
            ("pause", "mail", "Paused: queue mail"),
            ("pause", "", "Paused: tasks in no queue"),
            ("pause", "*", "Paused: everything"),
            ("resume", "*", "Resumed: everything"),
            ("resume", "*", "Not paused any more"),
            ("drain", "a-runner", "drains"),
            ("drain", "gone", "is gone"),
        ):
            with self.subTest(verb, target=target):
                address = f"{BOARD}{verb}/"
                asked = self.client.get(address, {"target": target})
                self.assertContains(asked, 'type="submit"')
                done = self.client.post(address, {"target": target}, follow=True)
                self.assertContains(done, said)
        asked = {(row.verb, row.target, row.by) for row in Control.objects.all()}
        self.assertEqual(
            asked,
            {
                ("stop", str(task.pk), "root"),
                ("pause", "mail", "root"),
                ("pause", "", "root"),
                ("drain", "a-runner", "root"),
            },
        )

    def test_a_target_that_cannot_be_one_and_a_verb_that_is_none_are_refused(self):
        self.client.force_login(self.root)
        for verb, target in (("pause", "x" * 191), ("pause", "a\0b"), ("drop", "")):
            asked = self.client.post(f"{BOARD}{verb}/", {"target": target})
            self.assertEqual(asked.status_code, 404)
        self.assertFalse(Control.objects.exists())

    def test_without_a_token_nothing_is_done(self):
        client = self.client_class(enforce_csrf_checks=True)
        client.force_login(self.root)

        asked = client.post(f"{BOARD}pause/", {"target": "mail"})

        self.assertEqual(asked.status_code, 403)
        self.assertFalse(Control.objects.exists())

    def places(self):
        """Return the addresses of every list and page of ours in the admin."""
        task = make_task("app.tasks.job")
        rows = [
            make_task("app.tasks.ended").create_completed_task(),
            make_runner(),
            *make_attempts("Failed"),
            task,
        ]
        yield reverse("admin:app_list", args=["background_task"])
        yield reverse("admin:background_task_task_add")
        for row in rows:
            name = f"admin:background_task_{row._meta.model_name}"
            yield reverse(f"{name}_changelist")
            yield reverse(f"{name}_change", args=[row.pk])
            yield reverse(f"{name}_history", args=[row.pk])

    def test_every_list_and_page_leads_there(self):
        self.client.force_login(self.root)
        for address in self.places():
            with self.subTest(address):
                page = self.client.get(address)
                self.assertContains(page, f'<a href="{BOARD}">Dashboard</a>', 1)

    def test_who_may_not_see_it_is_not_led_there(self):
        self.client.force_login(self.staff("view_runner", "view_attempt"))
        for address in self.places():
            self.assertNotIn(BOARD, self.client.get(address).content.decode())

    def test_who_may_change_tasks_is_led_there_too(self):
        self.client.force_login(self.staff("change_task"))
        listed = self.client.get(reverse("admin:background_task_task_changelist"))

        self.assertContains(listed, f'<a href="{BOARD}">Dashboard</a>', 1)
        self.assertEqual(self.client.get(BOARD).status_code, 200)

    def test_it_leads_back_to_the_admin(self):
        index = reverse("admin:app_list", args=["background_task"])

        def crumbs(page):
            text = page.content.decode().partition('class="breadcrumbs"')[2]
            return text.partition("</nav>")[0]

        self.assertIn(f'<a href="{index}">', crumbs(self.see(self.root)))
        asked = crumbs(self.client.get(f"{BOARD}pause/", {"target": "*"}))
        self.assertIn(f'<a href="{index}">', asked)
        self.assertIn(f'<a href="{BOARD}">', asked)

    @override_settings(TIME_ZONE="Asia/Tokyo")
    def test_moments_are_told_with_their_zone(self):
        at = datetime(2020, 1, 1, 12, tzinfo=UTC)
        pk = make_task(queue="mail", run_at=at).pk

        page = self.see(self.root)

        told = 'datetime="2020-01-01T12:00:00+00:00" title="2020-01-01 21:00:00 JST"'
        self.assertContains(page, told)
        page = self.client.get(reverse("admin:background_task_task_change", args=[pk]))
        self.assertContains(page, "Times are in the time zone JST.")


class bounded:
    """Have one of the dashboard's bounds be another one meanwhile."""

    def __init__(self, module, name, value):
        self.module, self.name, self.value = module, name, value

    def __enter__(self):
        self.was = getattr(self.module, self.name)
        setattr(self.module, self.name, self.value)

    def __exit__(self, *raised):
        setattr(self.module, self.name, self.was)
