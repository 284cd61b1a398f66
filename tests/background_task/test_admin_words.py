"""What a person reads in the admin can be translated, and is English if it is not."""

import re
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from unittest.mock import patch

from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import SimpleTestCase, TestCase
from django.utils import translation
from django.utils.functional import Promise

from background_task import status
from background_task.models import Attempt, Control, Task

from .admin_pages import MODELS, address, every_address, fill

READ = ("title", "aria-label", "alt", "placeholder", "label", "summary")
# What stands in the rows of these tests, and in Django's own pages.
DATA = re.compile(
    r"tests\.app\.\w+\.\w+|app\.(tasks\.\w*|progress)|^(runs|ended)$|\[\{.*\n?.*\}\]"
    r"|a-host|a-place|oops|mail|slow|ann|root|Cancelled by|App \| \w+|\w{40}"
    r"|\([\w.]+\)|\d\d:\d\d:\d\d \w+|[KM]iB|True|False|None|Search",
    re.MULTILINE,
)


@contextmanager
def translated():
    """Have every text that is looked up in a catalogue come in brackets meanwhile."""
    found = {
        "gettext": lambda text: f"⟦{text}⟧",
        "pgettext": lambda context, text: f"⟦{text}⟧",
        "ngettext": lambda one, many, n: f"⟦{one if n == 1 else many}⟧",
        "npgettext": lambda context, one, many, n: f"⟦{one if n == 1 else many}⟧",
    }
    with ExitStack() as stack:
        for name, function in found.items():
            stack.enter_context(patch.object(translation._trans, name, function))
        yield


class Page(HTMLParser):
    """Keeps what a person reads of a page, or hears, but for what is code."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.within = [], None
        self.feed(html.replace("<wbr>", ""))

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if self.within is None and tag in ("script", "style", "code", "pre"):
            self.within = tag
        shown = READ + (("value",) if known.get("type") == "submit" else ())
        shown += tuple(name for name in known if tag == "p" and name[:5] == "data-")
        self.texts += [known[name] or "" for name in shown if name in known]

    def handle_endtag(self, tag):
        if tag == self.within:
            self.within = None

    def handle_data(self, data):
        if self.within is None:
            self.texts.append(data)

    @property
    def untranslated(self):
        """What is in no brackets and is no data."""
        text = "\n".join(self.texts)
        while text != (text := re.sub("⟦[^⟦⟧]*⟧", "", text)):
            pass
        lines = DATA.sub("", text).split("\n")
        return [line for line in lines if re.search("[A-Za-z]{2}", line)]


class PageTests(TestCase):
    def test_no_page_has_a_text_that_cannot_be_translated(self):
        self.client.force_login(User.objects.create_superuser("root"))
        fill()
        for page in every_address():
            with self.subTest(page), translated():
                html = self.client.get(page).content.decode()
                self.assertEqual(Page(html).untranslated, [])

    def test_columns_actions_and_the_form_are_translated(self):
        self.client.force_login(User.objects.create_superuser("root"))
        fill()
        odd = address(Task, "change", Task.objects.get(repeat=7).pk)
        with translated():
            tasks = self.client.get(address(Task, "changelist")).content.decode()
            form = self.client.get(odd).content.decode()
            refused = self.client.post(address(Task, "add"), {"task_params": "7"})

        for text in ("⟦task name⟧", "⟦locked by⟧", "⟦priority += 1⟧"):
            self.assertIn(text, tasks)
        for text in ("⟦every 7 s⟧", "⟦hourly⟧", "⟦As a tasks.py of", "⟦repeat until⟧"):
            self.assertIn(text, form)
        self.assertContains(refused, "⟦This must be a list")

    def test_a_text_in_no_catalogue_is_noticed(self):
        html = '<p title="Told">⟦a ⟦b⟧⟧ <b>mail</b></p><pre>x = None</pre>'

        self.assertEqual(Page(html).untranslated, ["Told"])


class NameTests(SimpleTestCase):
    def test_models_and_fields_have_their_english_names_and_can_be_translated(self):
        for model in (*MODELS, Control):
            opts = model._meta
            words = re.sub("(?<=[a-z])(?=[A-Z])", " ", model.__name__).lower()
            self.assertEqual(opts.verbose_name, words)
            self.assertEqual(opts.verbose_name_plural, words + "s")
            names = {field.name: field.verbose_name for field in opts.concrete_fields}
            if names["id"] == "ID":  # Django's
                names.pop("id")
            for name, called in names.items():
                with self.subTest(model.__name__, name=name):
                    self.assertEqual(called, name.replace("_", " "))
                    self.assertIsInstance(called, Promise)

    def test_choices_have_their_english_names_and_can_be_translated(self):
        self.assertEqual(dict(Task.REPEAT_CHOICES)[Task.WEEKLY], "weekly")
        self.assertEqual(Attempt.Outcome.TIMED_OUT.label, "timed out")
        with translated():
            self.assertEqual(str(dict(Task.REPEAT_CHOICES)[Task.WEEKLY]), "⟦weekly⟧")
            self.assertEqual(Attempt(outcome="Lost").get_outcome_display(), "⟦lost⟧")
            self.assertEqual(str(Attempt.Outcome.TIMED_OUT.label), "⟦timed out⟧")

    def test_what_commands_refuse_can_be_translated(self):
        most = str(status.MOST + 1)
        for command in (
            ["tasks_health", "--max-backlog", most],
            ["tasks_prune", "--batch=0"],
        ):
            refused = self.assertRaisesRegex(CommandError, "^⟦--.*⟧$")
            with self.subTest(command), translated(), refused:
                call_command(*command)
