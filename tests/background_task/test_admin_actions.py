"""What may be done in the admin, by whom, and what the answer says."""

import re
from datetime import UTC, datetime, timedelta

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from background_task.admin import actions, lists
from background_task.models import Attempt, CompletedTask, Control, Runner, Task

from .test_admin_lists import make_attempt, make_completed
from .tools import KNOWN, half_an_app, make_claimed_task, make_runner, make_task

NOW = timezone.now()
LATER = NOW + timedelta(hours=1)
SURE = "Yes, I\N{RIGHT SINGLE QUOTATION MARK}m sure"


class ActionTestCase(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("root"))

    def log_in(self, *codenames):
        """Be one who has these permissions only."""
        person = User.objects.create_user("person", is_staff=True)
        permissions = Permission.objects.filter(codename__in=codenames)
        self.assertEqual(len(permissions), len(codenames))
        person.user_permissions.set(permissions)
        self.client.force_login(person)

    def address(self, model, page, *args):
        name = f"admin:background_task_{model._meta.model_name}_{page}"
        return reverse(name, args=args)

    def act(self, action, *rows, model=None, **more):
        """Choose rows of a list, do it and be sure; return what the answer says."""
        answer = self.choose(action, *rows, model=model, post="yes", **more)
        return self.said(answer)

    def choose(self, action, *rows, model=None, **more):
        """Choose rows of a list, and an action."""
        chosen = {"action": action, "_selected_action": [row.pk for row in rows]}
        address = self.address(model or type(rows[0]), "changelist")
        return self.client.post(address, chosen | more)

    def press(self, action, row):
        """Press a button of a row's page, and be sure."""
        return self.client.post(self.address(type(row), "do", row.pk, action))

    def said(self, answer):
        return " ".join(str(one) for one in get_messages(answer.wsgi_request))


class EndingBefore:
    """A wrapper of statements: before one of them a task ends."""

    def __init__(self, number, task):
        self.left, self.task = number, task

    def __call__(self, execute, *statement):
        self.left -= 1
        if self.left == -1:  # and those that end it count on
            self.task.create_completed_task()
            Task.objects.filter(pk=self.task.pk).delete()
        return execute(*statement)


class ListTests(ActionTestCase):
    def test_run_now(self):
        later, held = make_task(run_at=LATER), make_claimed_task("held")[0]

        said = self.act("run_now", later, held)

        later.refresh_from_db()
        self.assertLessEqual(later.run_at, timezone.now())
        self.assertEqual(said, "1 is due now; 1 runs already and was left alone.")

    def test_a_task_that_was_given_up_is_tried_again(self):
        task = make_task(failed_at=NOW, attempts=25, last_error="x")

        self.act("run_now", task)

        task.refresh_from_db()
        self.assertEqual((task.failed_at, task.attempts), (None, 0))

    def test_cancel(self):
        tasks = [make_task() for _ in range(3)]
        held = [make_claimed_task("held")[0] for _ in range(2)]

        said = self.act("cancel", *tasks, *held)

        self.assertEqual(said, "3 cancelled; 2 run and were left alone: stop them.")
        self.assertEqual(set(Task.objects.all()), set(held))
        texts = set(CompletedTask.objects.values_list("last_error", flat=True))
        self.assertEqual(texts, {"Cancelled by root"})

    def test_stop(self):
        held, waiting = make_claimed_task("held")[0], make_task()

        said = self.act("stop", held, waiting)

        row = Control.objects.get()
        self.assertEqual((row.verb, row.target, row.by), ("stop", str(held.pk), "root"))
        self.assertEqual(
            said,
            "1 is asked to stop; 1 does not run and was left alone: cancel it.",
        )

    def test_what_can_not_be_asked_is_not_said_to_be(self):
        held = [make_claimed_task(name, locked_by="4711")[0] for name in "ab"]
        page = self.address(Task, "do", held[0].pk, "stop")
        board = reverse("admin:background_task_order", args=["stop"])

        said = [self.act("stop", make_claimed_task("asked")[0], *held)]
        said += [self.said(self.client.post(page))]
        said += [self.said(self.client.post(board, {"target": held[0].pk}))]

        self.assertEqual(Control.objects.count(), 1)
        can_not = "in-process or by 1.2.8 and can't be asked to stop"
        self.assertEqual(said[0], f"1 is asked to stop; 2 are run {can_not}.")
        self.assertIn(f"1 is run {can_not}.", said[1])
        self.assertIn(
            f"Task {held[0].with_id()} is run in-process or by 1.2.8, and can't be "
            "asked to stop.",
            said[2],
        )

    def test_retry(self):
        failed = [make_completed("bad", failed_at=NOW) for _ in range(2)]
        fine = make_completed("fine")

        said = self.act("retry", *failed, fine)

        self.assertEqual(said, "2 wait again; 1 succeeded and was left alone.")
        self.assertEqual(Task.objects.filter(task_name="bad").count(), 2)
        self.assertEqual(CompletedTask.objects.get(), fine)

    def test_priorities(self):
        task, held = make_task(), make_claimed_task("held")[0]

        said = self.act("inc_priority", task, held)
        self.act("inc_priority", task)
        self.act("dec_priority", task)

        task.refresh_from_db()
        self.assertEqual(task.priority, 1)
        self.assertEqual(said, "Priority of 1 changed; 1 runs and was left alone.")

    def test_drain(self):
        runner = make_runner()

        said = self.act("drain", runner)

        row = Control.objects.get()
        self.assertEqual((row.verb, row.target), ("drain", runner.pk))
        self.assertEqual(said, "1 is asked to drain.")

    def test_all_of_a_filter_are_done_in_batches(self):
        make = [Task(task_name="x", run_at=LATER, task_params="[]") for _ in range(25)]
        Task.objects.bulk_create(make)
        due = make_task()
        self.addCleanup(setattr, actions, "_BATCH", actions._BATCH)
        actions._BATCH = 10
        address = self.address(Task, "changelist")

        with CaptureQueriesContext(connection) as queries:
            answer = self.client.post(
                f"{address}?status=waiting",
                {"action": "cancel", "_selected_action": [0], "select_across": 1}
                | {"post": "yes"},
            )

        self.assertEqual(self.said(answer), "25 cancelled.")
        self.assertEqual(Task.objects.get(), due)
        savepoints = [q for q in queries if q["sql"].startswith("SAVEPOINT")]
        self.assertGreaterEqual(len(savepoints), 3)

    def test_what_takes_too_long_for_one_request_is_said_and_done_in_part(self):
        Task.objects.bulk_create(
            Task(task_name="x", run_at=LATER, task_params="[]") for _ in range(5)
        )
        self.addCleanup(setattr, actions, "_BATCH", actions._BATCH)
        self.addCleanup(setattr, actions, "_LONGEST", actions._LONGEST)
        actions._BATCH, actions._LONGEST = 2, 0.0

        ids = sorted(Task.objects.values_list("pk", flat=True))

        said = self.act("inc_priority", *Task.objects.all())

        self.assertIn("Priority of 2 changed; 0 s were over before the rest", said)
        self.assertIn(f"id__gt={ids[1]} in its address", said)
        self.assertEqual(Task.objects.filter(priority=1).count(), 2)
        rest = self.client.get(self.address(Task, "changelist"), {"id__gt": ids[1]})
        found = {row.pk for row in rest.context["cl"].result_list}
        self.assertEqual(found, set(ids[2:]))

    def test_what_it_is_not_for_is_not_gone_through(self):
        failed = make_completed("bad", failed_at=NOW)
        fine = [make_completed("fine") for _ in range(5)]
        self.addCleanup(setattr, actions, "_BATCH", actions._BATCH)
        self.addCleanup(setattr, actions, "_LONGEST", actions._LONGEST)
        actions._BATCH, actions._LONGEST = 1, 0.0

        said = self.act("retry", *fine, failed)

        self.assertEqual(said, "1 waits again; 5 succeeded and were left alone.")

    def test_what_has_gone_is_said(self):
        tally = actions.Tally(gone=2)

        self.assertEqual(tally.text(actions.CANCEL), "2 are not here any more.")
        self.assertEqual(actions.Tally().text(actions.CANCEL), "0 cancelled.")


class AskingTests(ActionTestCase):
    """What can't be taken back is asked about first, wherever it is begun."""

    def rows(self):
        return {
            "cancel": make_task("shop.x", run_at=LATER),
            "stop": make_claimed_task("shop.held")[0],
            "drain": make_runner("r"),
        }

    def answered(self, question, **changed):
        """Post the form of a question as the browser would; return what it says."""
        form = question.content.decode().partition('<form method="post">')[2]
        names = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form)
        values = {}
        for name, value in names:
            values.setdefault(name, []).append(value)
        address = question.wsgi_request.get_full_path()
        return self.said(self.client.post(address, values | changed))

    def nothing_is_done(self, task):
        self.assertFalse(Control.objects.exists())
        self.assertTrue(Task.objects.filter(pk=task.pk).exists())

    def test_a_list_asks_and_names_what_was_chosen(self):
        rows = self.rows()
        names = {"cancel": "(shop.x)", "stop": "(shop.held)", "drain": "a-host"}
        for action, row in rows.items():
            with self.subTest(action):
                question = self.choose(action, row)

                self.assertContains(question, f"<h1>{action.capitalize()} ")
                self.assertContains(question, names[action])
                self.assertContains(question, SURE)
                self.nothing_is_done(rows["cancel"])
        said = {
            action: self.answered(self.choose(action, row))
            for action, row in rows.items()
        }

        self.assertEqual(
            said,
            {
                "cancel": "1 cancelled.",
                "stop": "1 is asked to stop.",
                "drain": "1 is asked to drain.",
            },
        )

    def test_a_page_asks(self):
        rows = self.rows()
        questions = {}
        for action, row in rows.items():
            page = self.address(type(row), "change", row.pk)
            asks = self.address(type(row), "do", row.pk, action)
            with self.subTest(action):
                self.assertContains(self.client.get(page), f'<a href="{asks}"')

                question = questions[action] = self.client.get(asks)

                self.assertContains(question, f'<a href="{page}" class="button cancel')
        self.nothing_is_done(rows["cancel"])
        *_, said = [self.answered(question) for question in questions.values()]

        self.assertEqual(said, "1 cancelled. 1 is asked to stop. 1 is asked to drain.")

    def test_the_dashboard_asks_in_the_same_words(self):
        task = self.rows()["stop"]
        board = reverse("admin:background_task_order", args=["stop"])

        asked = [
            self.client.get(board, {"target": task.pk}),
            self.client.get(self.address(Task, "do", task.pk, "stop")),
            self.choose("stop", task),
        ]

        for question in asked:
            self.assertContains(question, "What is stopped is asked to end, killed")
            self.assertContains(question, f"<h1>Stop task {task.pk} (shop.held)?</h1>")
            self.assertContains(question, SURE)
        self.nothing_is_done(task)

    def test_of_many_the_first_ones_are_named_and_all_are_done(self):
        Task.objects.bulk_create(
            Task(task_name=f"x{n}", run_at=LATER, task_params="[]") for n in range(25)
        )
        make_task("due")
        chosen = {"action": "cancel", "_selected_action": [0], "select_across": 1}
        address = self.address(Task, "changelist")

        question = self.client.post(f"{address}?status=waiting", chosen)

        self.assertContains(question, "<h1>Cancel 25 tasks?</h1>")
        self.assertContains(question, "(x19)")
        self.assertNotContains(question, "(x20)")
        self.assertContains(question, "<li>and 5 more</li>")
        self.assertEqual(self.answered(question), "25 cancelled.")
        self.assertEqual(Task.objects.get().task_name, "due")

    def test_of_more_than_are_counted_nobody_says_how_many_more(self):
        self.addCleanup(setattr, lists, "MOST_COUNTED", lists.MOST_COUNTED)
        lists.MOST_COUNTED = 22
        Task.objects.bulk_create(
            Task(task_name=f"x{n}", run_at=LATER, task_params="[]") for n in range(25)
        )
        chosen = {"action": "cancel", "_selected_action": [0], "select_across": 1}
        address = self.address(Task, "changelist")

        question = self.client.post(f"{address}?status=waiting", chosen)

        self.assertContains(question, "<h1>Cancel more than 22 tasks?</h1>")
        self.assertContains(question, "<li>and more</li>")

    def test_what_is_harmless_is_done_at_once(self):
        task = make_task(run_at=LATER)

        said = self.said(self.choose("run_now", task))

        self.assertEqual(said, "1 is due now.")
        page = self.client.get(self.address(Task, "do", task.pk, "run_now"))
        self.assertEqual(page.status_code, 405)

    def test_what_has_gone_is_not_asked_about(self):
        task = make_task()
        Task.objects.all().delete()

        answer = self.client.get(self.address(Task, "do", task.pk, "cancel"))

        self.assertRedirects(answer, self.address(Task, "changelist"))
        self.assertEqual(self.said(self.choose("cancel", task)), "0 cancelled.")

    def test_who_may_not_act_is_not_asked(self):
        rows = self.rows()
        self.log_in("view_task", "view_runner")
        for action, row in rows.items():
            page = self.client.get(self.address(type(row), "do", row.pk, action))
            self.assertEqual(page.status_code, 403)


class PermissionTests(ActionTestCase):
    def offered(self, model):
        page = self.client.get(self.address(model, "changelist"))
        form = page.context["action_form"]
        return {name for name, _ in form.fields["action"].choices} if form else set()

    def test_superusers_may_do_everything(self):
        make_task()
        names = {"run_now", "cancel", "stop", "inc_priority", "dec_priority"}

        self.assertEqual(self.offered(Task), {*names, "delete_selected", ""})
        self.assertEqual(self.offered(CompletedTask), {"retry", "delete_selected", ""})
        self.assertEqual(self.offered(Runner), {"drain", ""})

    def test_control_is_a_permission_of_its_own(self):
        permission = Permission.objects.get(codename="control_task")
        self.assertEqual(permission.name, "Can run, retry, cancel and stop tasks")
        self.log_in("view_task", "view_completedtask", "view_runner", "control_task")
        names = {"run_now", "cancel", "stop", "inc_priority", "dec_priority"}

        self.assertEqual(self.offered(Task), {*names, ""})
        self.assertEqual(self.offered(CompletedTask), {"retry", ""})
        self.assertEqual(self.offered(Runner), {"drain", ""})

    def test_who_may_change_tasks_sees_to_priorities_alone(self):
        self.log_in("change_task", "change_completedtask")

        self.assertEqual(self.offered(Task), {"inc_priority", "dec_priority", ""})
        self.assertEqual(self.offered(CompletedTask), set())

    def test_a_viewer_sees_pages_and_does_nothing(self):
        rows = {
            "cancel": make_task(),
            "stop": make_claimed_task("held")[0],
            "inc_priority": make_task(),
            "run_now": make_task(run_at=LATER),
            "retry": make_completed(failed_at=NOW),
            "drain": make_runner(),
        }
        before = [list(m.objects.values()) for m in (Task, CompletedTask, Runner)]
        self.log_in("view_task", "view_completedtask", "view_runner")

        for action, row in rows.items():
            with self.subTest(action):
                page = self.client.get(self.address(type(row), "change", row.pk))
                self.assertEqual(page.status_code, 200)
                self.assertNotContains(page, "bgtask-buttons")
                self.act(action, row)
                self.assertEqual(self.press(action, row).status_code, 403)

        after = [list(m.objects.values()) for m in (Task, CompletedTask, Runner)]
        self.assertEqual(before, after)
        self.assertFalse(Control.objects.exists())

    def test_who_may_not_look_may_not_act(self):
        task = make_task()
        self.log_in("control_task")

        self.assertEqual(self.press("cancel", task).status_code, 403)

    def test_strangers_are_sent_to_log_in(self):
        task = make_task()
        self.client.logout()

        answer = self.press("cancel", task)

        self.assertIn("/login/", answer["Location"])
        self.assertTrue(Task.objects.exists())


class ButtonTests(ActionTestCase):
    def buttons(self, row):
        """Return the names of the actions that the page of a row offers."""
        page = self.client.get(self.address(type(row), "change", row.pk))
        self.assertEqual(page.status_code, 200)
        return [action.name for action, _ in page.context["buttons"]]

    def test_what_fits_is_offered(self):
        waits = ["run_now", "cancel", "inc_priority", "dec_priority"]
        self.assertEqual(self.buttons(make_task()), waits)
        self.assertEqual(self.buttons(make_task(failed_at=NOW)), waits)
        self.assertEqual(self.buttons(make_claimed_task("held")[0]), ["stop"])
        old, _ = make_claimed_task("held by a pid", locked_by="4711")
        self.press("stop", old)
        self.assertEqual(self.buttons(old), ["stop"])
        self.assertEqual(self.buttons(make_completed(failed_at=NOW)), ["retry"])
        self.assertEqual(self.buttons(make_completed()), [])
        self.assertEqual(self.buttons(make_runner()), ["drain"])

    def test_what_is_asked_already_is_said_and_not_offered_again(self):
        task, runner = make_claimed_task("held")[0], make_runner()
        self.press("stop", task)
        self.press("drain", runner)

        self.assertEqual((self.buttons(task), self.buttons(runner)), ([], []))
        for page in (
            self.client.get(self.address(Runner, "change", runner.pk)),
            self.client.get(self.address(Runner, "changelist")),
        ):
            self.assertContains(page, "asked to drain by root")
            self.assertNotContains(page, "</span> serving")

    def test_one_that_is_stale_is_not_asked_to_drain(self):
        lapsed = make_runner("lapsed", trusted_for=-timedelta(seconds=1))

        self.assertEqual(self.buttons(lapsed), [])

    def test_one_that_stays_leads_back_to_its_page(self):
        task = make_task(run_at=LATER)

        answer = self.press("run_now", task)

        self.assertRedirects(answer, self.address(Task, "change", task.pk))
        self.assertEqual(self.said(answer), "1 is due now.")

    def test_one_that_is_cancelled_leads_to_what_became_of_it(self):
        task = make_task()

        answer = self.press("cancel", task)

        completed = CompletedTask.objects.get()
        self.assertRedirects(
            answer, self.address(CompletedTask, "change", completed.pk)
        )

    def test_one_that_is_retried_leads_to_the_tasks(self):
        answer = self.press("retry", make_completed(failed_at=NOW))

        self.assertRedirects(answer, self.address(Task, "changelist"))

    def test_one_that_ended_meanwhile_is_said_to(self):
        task = make_task()
        completed = task.create_completed_task()
        Task.objects.all().delete()

        answer = self.press("cancel", task)

        place = self.address(CompletedTask, "change", completed.pk)
        self.assertRedirects(answer, place)
        self.assertIn("is not here any more", self.said(answer))
        answer = self.client.get(self.address(Task, "change", task.pk))
        self.assertRedirects(answer, place)
        self.assertIn(f"Task {task.pk} has ended", self.said(answer))

    def test_one_that_ends_while_its_page_is_read_is_shown_or_led_from(self):
        with CaptureQueriesContext(connection) as queries:
            self.buttons(make_task())
        for number in range(len(queries)):
            with self.subTest(number):
                task = make_task()
                with connection.execute_wrapper(EndingBefore(number, task)):
                    page = self.client.get(self.address(Task, "change", task.pk))

                if page.status_code != 200:
                    completed = CompletedTask.objects.get(task_id=task.pk)
                    place = self.address(CompletedTask, "change", completed.pk)
                    self.assertRedirects(page, place, fetch_redirect_response=False)

    def test_one_that_never_was_leads_to_the_list(self):
        for pk in (4711, "9" * 30, "9" * 5000):
            answer = self.press("cancel", Task(pk=pk))

            self.assertRedirects(answer, self.address(Task, "changelist"))
            answer = self.client.get(self.address(Task, "change", pk))
            self.assertRedirects(answer, reverse("admin:index"))

    def test_it_takes_a_post_with_a_token(self):
        task = make_task()
        address = self.address(Task, "do", task.pk, "cancel")
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(User.objects.get())

        self.assertEqual(strict.post(address).status_code, 403)
        self.assertTrue(Task.objects.exists())

    def test_what_is_no_action_is_refused(self):
        for action in ("delete", "retry", "x"):
            self.assertEqual(self.press(action, make_task()).status_code, 403)

    def test_it_is_in_the_history(self):
        task = make_task(run_at=LATER)

        self.press("run_now", task)

        entry = LogEntry.objects.get()
        self.assertEqual(entry.object_id, str(task.pk))
        self.assertIn("Run now", entry.get_change_message())


class PageTests(ActionTestCase):
    def page(self, row):
        return self.client.get(self.address(type(row), "change", row.pk))

    def test_a_waiting_task(self):
        task = make_task("shop.x", run_at=LATER, queue="mail", repeat=3600)

        page = self.page(task)

        for text in (
            "</span> waiting",
            "mail",
            "0 of 25",
            "every 1 h",
            "no runner is up",
        ):
            self.assertContains(page, text)

    def test_a_running_task_says_where_and_what_it_holds(self):
        runner = make_runner("alive")
        task, _ = make_claimed_task("shop.x", locked_by="alive")
        runner.running = [
            {
                "task": task.pk,
                "name": "shop.x",
                "pid": 77,
                "began": timezone.now().timestamp() - 65,
                "held": 50 * 1024**2,
                "memory": 512 * 1024**2,
                "seconds": 3600,
            }
        ]
        runner.save()
        Task.objects.update(progress_done=30, progress_total=120, progress_message="so")
        Control.objects.create(verb="stop", target=str(task.pk), by="ann", at=NOW)

        page = self.page(task)

        self.assertContains(page, "a-host 4711")
        self.assertContains(page, "1 min 5 s of at most 1 h<")
        self.assertContains(page, "50.0 MiB of at most 512 MiB")
        self.assertContains(
            page, '<progress aria-label="Progress" max="120" value="30">'
        )
        self.assertContains(page, "30 of 120 (25 %) so")
        self.assertContains(page, "by ann")
        self.assertContains(page, "Its first try runs")

    def test_progress_without_an_end(self):
        make_claimed_task("shop.x")
        Task.objects.update(progress_done=1234)

        self.assertContains(
            self.page(Task.objects.get()), '<progress aria-label="Progress"></progress>'
        )

    def test_what_is_due_is_not_said_to_run_next_ago(self):
        due, later = make_task(run_at=NOW), make_task(run_at=LATER)

        self.assertContains(self.page(due), "<dt>Due since</dt>")
        self.assertNotContains(self.page(due), "Next run")
        self.assertContains(self.page(later), "<dt>Next run</dt>")

    def test_one_whose_name_is_not_registered_says_so(self):
        text = "No tasks.py here registers shop.gone: no runner with this code takes it"
        gone = make_task("shop.gone")

        self.assertContains(self.page(gone), f"<dd>{text}.</dd>")
        for other in (make_task(KNOWN), make_claimed_task("shop.gone")[0]):
            self.assertNotContains(self.page(other), "Not registered")
        with half_an_app():
            self.assertNotContains(self.page(gone), "Not registered")

    def test_tries_that_nobody_recorded_are_not_denied(self):
        task = make_task(attempts=3, last_error="oops")

        self.assertContains(self.page(task), "No try is recorded: it ran in-process")
        self.assertNotContains(self.page(task), "has not been tried")

    def test_one_that_is_made_by_hand_has_none_of_what_runners_write(self):
        page = self.client.get(self.address(Task, "add"))

        self.assertContains(page, "Task params:")
        for label in ("Locked by", "Last error", "Progress done", "Task hash"):
            self.assertNotContains(page, label)

    def test_the_model_of_its_creator_is_gone(self):
        kind = ContentType.objects.create(app_label="shop", model="cart")
        creator = {"creator_content_type": kind, "creator_object_id": 7}
        task = make_task(**creator)
        for row in (task, task.create_completed_task()):
            self.assertContains(self.page(row), "shop.cart 7")

    def test_moments_that_the_zone_does_not_have(self):
        for moment, zone in (
            (datetime(9999, 12, 31, 23, tzinfo=UTC), "Europe/Berlin"),
            (datetime(1, 1, 1, 1, tzinfo=UTC), "America/New_York"),
        ):
            task = make_task(KNOWN, run_at=moment, repeat_until=moment)
            rows = task, task.create_completed_task()
            for row in rows:
                with self.subTest(zone, row=row), override_settings(TIME_ZONE=zone):
                    self.assertEqual(self.page(row).status_code, 200)
        self.log_in("view_task", "view_completedtask")
        for row in rows:
            with override_settings(TIME_ZONE=zone):
                self.assertEqual(self.page(row).status_code, 200)

    def test_one_that_is_held_by_nobody_who_is_known(self):
        task, _ = make_claimed_task("shop.x", locked_by="gone")

        self.assertContains(self.page(task), "gone, which is no runner that is known")

    def test_a_try_with_all_that_is_known_of_it(self):
        task = make_task("shop.x", attempts=1, last_error="Stopped after 2 s")
        make_attempt(
            task,
            outcome="TimedOut",
            error="Stopped after 2 s",
            stack="\n".join(f"line {number}" for number in range(40)),
            output="said this",
            output_size=5000,
            waited=0.25,
            cpu_seconds=7.25,
            peak_memory=2 * 1024**3,
            exit_code=-9,
            host="a-host",
            pid=99,
        )

        page = self.page(task)

        for text in (
            "Try 1",
            "timed out",
            "250 ms",
            "1 min 15 s",
            "2.0 GiB",
            "7.2 s",
            "-9",
            "a-host 99",
            "said this",
            "head and tail of 4.9 KiB",
            "(40 lines)",
        ):
            self.assertContains(page, text)
        self.assertContains(page, '<details class="bgtask-text">', 1)
        # The try tells its error: it is not said twice.
        self.assertEqual(page.content.decode().count('<pre tabindex="0">Stopped'), 1)

        attempt = self.page(Attempt.objects.get())
        self.assertContains(attempt, "head and tail of 4.9 KiB")
        self.assertContains(attempt, self.address(Task, "change", task.pk))

    def test_an_old_completed_row_has_no_tries_and_shows_its_error(self):
        completed = make_completed("old", failed_at=NOW, last_error="oops")
        CompletedTask.objects.update(task_id=None)

        page = self.page(completed)

        self.assertContains(page, "oops")
        self.assertContains(page, "No try is recorded")

    def test_many_tries_are_not_all_read(self):
        task = make_task()
        for number in range(53):
            make_attempt(task, number + 1, outcome="Lost")

        page = self.page(task)

        self.assertEqual(len(page.context["task_page"].tries), 50)
        self.assertContains(page, "And 3 earlier ones")

    def test_what_has_ended_is_not_changed(self):
        completed = make_completed(priority=1)
        address = self.address(CompletedTask, "change", completed.pk)

        self.assertEqual(self.client.post(address, {"priority": 9}).status_code, 403)

    def test_a_runner(self):
        runner = make_runner()
        runner.lease, runner.slots, runner.queues, runner.running = 30, 4, ["mail"], []
        runner.save()
        page = self.page(runner)
        for text in ("serving", "0 of 4", "mail", "Nothing has run for more than"):
            self.assertContains(page, text)
        runner.draining = True
        runner.save()
        self.assertContains(self.page(runner), "draining")
        self.assertContains(self.page(runner), "Runs now")
        runner.trusted_until = timezone.now() - timedelta(seconds=1)
        runner.save()
        stale = self.page(runner)
        self.assertContains(stale, "stale: not heard of")
        self.assertContains(stale, "Runners that are up take over its tasks.")
        self.assertNotContains(stale, "Runs now")

    def test_which_queues_a_runner_serves_is_said_alike_everywhere(self):
        runner = make_runner()
        for queues, excluded, said in (
            ([], [], "all"),
            (["mail", "news"], [], "mail, news"),
            ([], ["slow", "mail"], "all but mail, slow"),
            (["mail", "slow"], ["slow"], "mail"),
            (None, None, None),
        ):
            runner.queues, runner.excluded_queues = queues, excluded
            runner.save()
            with self.subTest(said):
                fact = f"<dt>Queues</dt><dd>{said}</dd>"
                self.assertContains(self.page(runner), fact, 1 if said else 0)
                listed = self.client.get(self.address(Runner, "changelist"))
                cell = f'<td class="field-queues_named">{said or "-"}</td>'
                self.assertContains(listed, cell)
                board = self.client.get(reverse("admin:background_task_dashboard"))
                dash = "\N{EN DASH}"
                self.assertContains(board, f'data-label="Queues">{said or dash}</td>')

    def test_the_list_of_runners_marks_those_that_are_not_heard_of(self):
        make_runner("alive")
        make_runner("lapsed", trusted_for=-timedelta(seconds=1))
        draining = make_runner("draining")
        draining.draining, draining.slots = True, 2
        draining.running = [
            {"task": 7, "name": f"shop.{n}", "held": 10 * 1024**2} for n in range(5)
        ]
        draining.save()

        page = self.client.get(self.address(Runner, "changelist"))
        cl = page.context["cl"]
        states = {r.pk: cl.model_admin.state(r) for r in cl.result_list}

        self.assertIn("serving", states["alive"])
        self.assertIn("stale", states["lapsed"])
        self.assertIn("draining", states["draining"])
        self.assertContains(page, "5 of 2")
        self.assertContains(page, "50.0 MiB")
        self.assertContains(page, "and 2 more")


class EscapingTests(ActionTestCase):
    def test_no_text_of_a_task_is_taken_for_html(self):
        evil = "<script>alert(1)</script>"
        task = make_task(
            f"app.{evil}",
            (evil,),
            {evil: evil},
            verbose_name=evil,
            queue=evil,
            last_error=f"Traceback\n{evil}",
            progress_message=evil,
            progress_done=1,
        )
        make_attempt(task, error=evil, output=evil, stack=evil, host=evil)
        failed = task.create_completed_task()
        held, _ = make_claimed_task(f"held.{evil}", locked_by=evil[:60])
        runner = make_runner("r")
        runner.host, runner.queues = evil, [evil]
        runner.running = [{"task": task.pk, "name": evil, "held": 1, "began": 1}]
        runner.save()
        attempt = Attempt.objects.get()
        for row in (task, failed, held, runner, attempt):
            for page in ("changelist", "change", "delete", "history"):
                args = [] if page == "changelist" else [row.pk]
                answer = self.client.get(self.address(type(row), page, *args))
                with self.subTest(row=type(row).__name__, page=page):
                    self.assertNotContains(answer, evil, status_code=answer.status_code)
                    self.assertNotIn("<script>alert", answer.content.decode())
        page = self.client.get(self.address(Task, "change", task.pk))
        self.assertContains(page, "&lt;script&gt;alert(1)&lt;/script&gt;")
