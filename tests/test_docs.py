"""What the documentation says is so: its examples run, its tables have it all."""

import re
import types
from pathlib import Path

from django.contrib.auth.models import User
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from django.test import SimpleTestCase, TestCase

from background_task import signals
from background_task.models import Task
from background_task.settings import AppSettings, app_settings
from background_task.tasks import tasks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def rows(page):
    """Return the tables' rows of a page: their cells by the name in the first one."""
    lines = re.findall(r"^\|.*$", (DOCS / page).read_text(), re.M)
    cells = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    return {row[0].strip("`"): row for row in cells if row[0].startswith("`")}


def examples(page):
    """Return the Python examples of a page, compiled, in their order."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)
    # Empty lines before it, so that a traceback shows the page's own line.
    padded = ("\n" * text.count("\n", 0, it.start(1)) + it[1] for it in found)
    return [compile(source, str(page), "exec") for source in padded]


class SettingsPageTests(SimpleTestCase):
    def test_every_setting_is_there_with_its_true_default(self):
        documented = rows("settings.md")
        names = {name for name in vars(AppSettings) if name.isupper()}
        also = {"BACKGROUND_TASK_MAX_ATTEMPTS", "BACKGROUND_TASK_MAX_RUN_TIME"}
        self.assertEqual(set(documented), names - also)
        for name in also:
            self.assertIn(f"`{name}`", "".join(documented[name[16:]]))

        for name, (_, _, default) in documented.items():
            said = re.match(r"`(.+?)`", default)
            if name == "BACKGROUND_TASK_ASYNC_THREADS":
                self.assertEqual(default, "the number of CPUs")
            elif name == "BACKGROUND_TASK_PRIORITY_ORDERING":
                self.assertEqual(said[1], '"DESC"')
                self.assertEqual(getattr(app_settings, name), "-")
            else:
                self.assertEqual(said[1], repr(getattr(app_settings, name)), name)


class ProcessTasksPageTests(SimpleTestCase):
    def test_every_option_is_there_with_its_default(self):
        documented = {
            name.split()[0]: row for name, row in rows("process_tasks.md").items()
        }
        command = load_command_class("background_task", "process_tasks")
        parser = command.create_parser("manage.py", "process_tasks")
        theirs = set(BaseCommand().create_parser("", "")._option_string_actions)
        ours = {
            name: action
            for name, action in parser._option_string_actions.items()
            if name not in theirs
        }
        self.assertEqual(set(documented), set(ours))

        for name, action in ours.items():
            if action.default not in (None, False):
                self.assertIn(f"`{action.default!r}`", documented[name][2])


class GuideTests(TestCase):
    def test_its_examples_run(self):
        module = types.ModuleType("shop.tasks")
        user = User.objects.create(username="ada", email="ada@example.org")
        module.__dict__.update(User=User, Task=Task, user=user)
        before = {name: signal.receivers[:] for name, signal in self.signals()}
        known = dict(tasks._tasks)
        self.addCleanup(self.restore, before, known)

        blocks = examples(DOCS / "guide.md")

        self.assertGreater(len(blocks), 10)
        for block in blocks:
            exec(block, module.__dict__)

    def signals(self):
        return [(n, s) for n, s in vars(signals).items() if n.startswith("task_")]

    def restore(self, before, known):
        tasks._tasks.clear()
        tasks._tasks.update(known)
        for name, signal in self.signals():
            signal.receivers = before[name]
            signal.sender_receivers_cache.clear()


class LinkTests(SimpleTestCase):
    def test_every_link_between_the_pages_leads_somewhere(self):
        pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("example/*.md")]
        for page in pages:
            for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text()):
                if target and "://" not in target:
                    found = (page.parent / target).exists()
                    self.assertTrue(found, f"{page.name} links to {target}")


CONTRACT_FOLDERS = {"B": "background_task", "I": "integration", "U": "upgrade"}


class ContractPageTests(SimpleTestCase):
    def test_the_tests_that_are_named_are_there(self):
        text = (DOCS / "contract.md").read_text()
        named = re.findall(r"(?:tests/)?([\w/]+)/(test_\w+\.py)::(test_\w+)", text)

        self.assertGreater(len(named), 150)
        for folder, file, test in named:
            path = ROOT / "tests" / CONTRACT_FOLDERS.get(folder, folder) / file
            with self.subTest(file=path.name, test=test):
                self.assertRegex(path.read_text(), rf"def {test}\b")
