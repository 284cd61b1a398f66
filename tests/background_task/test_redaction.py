"""What must nobody read is read by nobody."""

import functools
import os

from django.contrib.auth.models import Permission, User
from django.test import SimpleTestCase, TestCase
from django.urls import reverse

from background_task import names, redaction
from background_task.limits import SettingError
from background_task.managers import params_text
from background_task.models import CompletedTask, Task
from background_task.redaction import HIDDEN
from background_task.tasks import tasks

from .tools import KNOWN, form_values, half_an_app, make_task

NAME = "tests.redacted"
CAFE = os.fsdecode(b"caf\xe9.txt")  # as Linux lets files be named: half a surrogate
TOO_DEEP = "[" * 100_000


class Registered:
    """A registry that is as it was afterwards."""

    def setUp(self):
        super().setUp()
        names.failure()  # which imports the project's tasks, once
        known = dict(tasks._tasks)
        self.addCleanup(tasks._tasks.update, known)
        self.addCleanup(tasks._tasks.clear)

    def declare(self, function, redact, name=NAME):
        return tasks.background(name=name, redact=redact)(function)

    def shown(self, *args, **kwargs):
        stored = params_text(args, kwargs)
        return dict(redaction.arguments(NAME, stored))


def log_in(user, password, *rest, retries=3, **more):
    pass


def strict(user, password, retries=3):
    pass


class DeclarationTests(Registered, SimpleTestCase):
    def test_a_name_that_is_no_parameter_is_refused(self):
        with self.assertRaisesRegex(
            SettingError, r"tests.redacted.*'pasword'.*Did you mean 'password'\?"
        ):
            self.declare(strict, ("pasword",))
        with self.assertRaisesRegex(SettingError, "It has user, password, retries"):
            self.declare(strict, ("x",))
        self.assertIsNone(tasks.get(NAME))

    def test_what_is_no_tuple_of_names_is_refused(self):
        for wrong in ("password", 7, None, (7,), ("",)):
            with (
                self.subTest(wrong=wrong),
                self.assertRaisesRegex(SettingError, r"redact .*\(\"password\",\)"),
            ):
                self.declare(strict, wrong)

    def test_one_that_takes_any_name_is_believed(self):
        self.declare(log_in, ("token",), "one")
        self.declare(lambda **more: None, ["token"], "two")
        self.declare(functools.partial(strict, "ada"), {"password"}, "three")


class ArgumentTests(Registered, SimpleTestCase):
    def test_by_position_and_by_name(self):
        self.declare(strict, ("password",))

        self.assertEqual(
            self.shown("ada", "s3cret"), {"user": '"ada"', "password": HIDDEN}
        )
        self.assertEqual(
            self.shown("ada", password="s3cret", retries=2),
            {"user": '"ada"', "password": HIDDEN, "retries": "2"},
        )

    def test_what_the_function_collects(self):
        self.declare(log_in, ("more", "token"))
        self.assertEqual(
            self.shown("ada", "pw", 7, retries=1, token="x", other="y"),
            {
                "user": '"ada"',
                "password": '"pw"',
                "3": HIDDEN,  # nobody knows which one it is
                "retries": "1",
                "token": HIDDEN,
                "other": HIDDEN,
            },
        )

    def test_a_wrapper_may_add_arguments_so_positions_say_nothing(self):
        @functools.wraps(strict)
        def wrapper(*args, **kwargs):
            return strict("ada", *args, **kwargs)

        self.declare(wrapper, ("password",))

        self.assertEqual(self.shown("s3cret"), {"1": HIDDEN})
        self.assertEqual(self.shown(retries=2, password="x")["retries"], "2")
        self.assertEqual(self.shown(retries=2, password="x")["password"], HIDDEN)

    def test_more_than_the_function_takes(self):
        self.declare(strict, ("password",))

        self.assertEqual(self.shown(1, 2, 3, "s3cret")["4"], HIDDEN)

    def test_one_without_redact_is_shown_as_it_is_stored(self):
        self.declare(strict, ())
        for text in ('[["a"], {"b": 1}]', "[1, {}]", "nonsense"):
            self.assertEqual(redaction.params_text(NAME, text), text)
            self.assertFalse(redaction.is_redacted(NAME, text))
        self.assertEqual(redaction.arguments(NAME, "[1, {}]"), [("", "[1, {}]")])

    def test_what_no_tasks_module_has_is_hidden(self):
        stored = params_text(("s3cret",), {"token": "s3cret"})

        self.assertEqual(
            self.shown("s3cret", token="x"), {"1": HIDDEN, "token": HIDDEN}
        )
        self.assertNotIn("s3cret", redaction.params_text(NAME, stored))
        self.assertTrue(redaction.is_redacted(NAME, stored))
        self.assertFalse(redaction.is_redacted(NAME, "[[], {}]"))

    def test_what_can_not_be_read_is_hidden(self):
        self.declare(strict, ("password",))
        for text in (
            *("nonsense", "7", "[1, {}]", "[[], {}, 3]", '{"a": 1, "b": 2}'),
            TOO_DEEP,
        ):
            with self.subTest(text[:20]):
                self.assertEqual(redaction.params_text(NAME, text), HIDDEN)
                self.assertEqual(redaction.arguments(NAME, text), [("", HIDDEN)])
                self.assertTrue(redaction.is_redacted(NAME, text))

    def test_what_can_not_be_encoded_is_shown_as_it_is_stored(self):
        self.declare(log_in, ("password",))
        more = {CAFE: CAFE}

        shown = self.shown(CAFE, "s3cret", **more)
        text = redaction.params_text(NAME, params_text((CAFE, "s3cret"), more))

        cafe = '"caf\\udce9.txt"'
        self.assertEqual(
            shown, {"user": cafe, "password": HIDDEN, cafe.strip('"'): cafe}
        )
        self.assertEqual(text, f'[[{cafe}, "{HIDDEN}"], {{{cafe}: {cafe}}}]')

    def test_tasks_that_can_not_be_imported_are_hidden_and_the_page_is_there(self):
        with half_an_app(), self.assertLogs("background_task", "ERROR") as logs:
            self.assertEqual(self.shown("s3cret"), {"1": HIDDEN})

        self.assertIn("no_such_module", logs.output[0])


class AdminTests(Registered, TestCase):
    def setUp(self):
        super().setUp()
        self.declare(strict, ("password",))
        self.client.force_login(User.objects.create_superuser("root"))
        self.task = make_task(NAME, ("ada", "s3cret"), {"retries": 7})

    def address(self, row, page="change"):
        name = f"admin:background_task_{row._meta.model_name}_{page}"
        return reverse(name, args=[] if page == "changelist" else [row.pk])

    def viewer(self):
        viewer = User.objects.create_user("viewer", is_staff=True)
        codenames = ["view_task", "view_completedtask"]
        viewer.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        return viewer

    def test_no_page_of_a_task_shows_it(self):
        completed = self.task.create_completed_task()
        for user in (User.objects.get(), self.viewer()):
            self.client.force_login(user)
            for row in (self.task, completed):
                for page in ("changelist", "change", "history"):
                    answer = self.client.get(self.address(row, page))
                    with self.subTest(user=user, row=row, page=page):
                        self.assertEqual(answer.status_code, 200)
                        self.assertNotContains(answer, "s3cret")
                        self.assertNotContains(answer, self.task.task_hash)
                        if page != "history":
                            self.assertContains(answer, "ada")
                            self.assertContains(answer, HIDDEN)

    def test_the_pages_show_what_can_not_be_encoded_or_is_nested_too_deeply(self):
        for name in (NAME, KNOWN):
            make_task(name, (CAFE, "s3cret"))
            Task.objects.filter(pk=make_task(name).pk).update(task_params=TOO_DEEP)
        for task in Task.objects.all():
            task.create_completed_task()
        rows = [*Task.objects.all(), *CompletedTask.objects.all()]

        for address in {
            *(self.address(row, "changelist") for row in rows),
            *(self.address(row) for row in rows),
        }:
            with self.subTest(address):
                self.assertEqual(self.client.get(address).status_code, 200)

    def test_the_hash_of_what_is_hidden_finds_nothing(self):
        opened = make_task(KNOWN, (7,))
        strange = make_task("tests.gone", ("s3cret",))
        for task in Task.objects.all():
            task.create_completed_task()
        self.client.force_login(self.viewer())

        found = set()
        for model in (Task, CompletedTask):
            for task in (self.task, opened, strange):
                for said in (task.task_hash, task.task_hash[:8]):
                    address = self.address(model(), "changelist")
                    answer = self.client.get(address, {"q": said})
                    found.update(answer.context["cl"].result_list)

        self.assertEqual({row.task_name for row in found}, {KNOWN})
        self.assertEqual(len(found), 2)

    def test_no_page_lets_it_be_deleted_and_seen(self):
        answer = self.client.get(self.address(self.task, "delete"))

        self.assertNotContains(answer, "s3cret")

    def test_neither_search_nor_filter_nor_order_tells_it(self):
        self.task.create_completed_task()
        for model in (Task, CompletedTask):
            address = self.address(model(), "changelist")
            answer = self.client.get(address, {"q": "s3cret"})
            self.assertEqual(list(answer.context["cl"].result_list), [])
            for filtered in ("task_params__contains", "task_params__startswith"):
                with self.assertLogs("django.security"):
                    answer = self.client.get(address, {filtered: "s3"})
                self.assertEqual(answer.status_code, 400)

    def test_a_change_leaves_what_is_hidden_as_it_is(self):
        form = self.client.get(self.address(self.task)).context["adminform"].form
        self.assertNotIn("task_params", form.fields)
        self.assertNotIn("task_name", form.fields)
        values = form_values(form) | {"priority": 9}
        forged = {"task_params": "[[], {}]", "task_name": "tests.app.tasks.note"}

        answer = self.client.post(self.address(self.task), values | forged)

        self.assertEqual(answer.status_code, 302)
        now = Task.objects.get()
        self.assertEqual(now.priority, 9)
        self.assertEqual(now.params(), (["ada", "s3cret"], {"retries": 7}))
        self.assertEqual(now.task_name, NAME)
        self.assertEqual(now.task_hash, self.task.task_hash)

    def test_a_form_shows_the_arguments_once(self):
        for row in (self.task, self.task.create_completed_task()):
            page = self.client.get(self.address(row))

            self.assertContains(page, "<label>Task params:</label>", 1)

    def test_what_is_open_may_be_changed_as_ever(self):
        task = make_task("tests.app.tasks.note", (7,))

        form = self.client.get(self.address(task)).context["adminform"].form

        self.assertIn("task_params", form.fields)
        self.assertIn("task_name", form.fields)
