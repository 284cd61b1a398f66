"""What the documentation says is so: its examples run, its tables have it all."""

import re
import subprocess
import sys
import types
import unittest
from collections import Counter, defaultdict
from pathlib import Path

import yaml
from django.contrib.auth.models import User
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from django.db import connection
from django.test import SimpleTestCase, TestCase
from django.utils import timezone

from background_task import control, metrics, signals
from background_task.admin.actions import OF_COMPLETED, OF_RUNNERS, OF_TASKS
from background_task.management.commands._in_process import EX_STOPPED
from background_task.models import Attempt, Control, Task
from background_task.settings import AppSettings, app_settings
from background_task.states import State
from background_task.supervisor.stopping import EX_FAILED, EX_UNWRITTEN
from background_task.tasks import tasks
from tests.background_task.tools import make_task

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

    def test_no_page_names_a_setting_that_is_none(self):
        known = {name for name in vars(AppSettings) if name.isupper()}
        for page in (*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("deploy/*")):
            text = page.read_text()
            named = set(re.findall(r"\bBACKGROUND_TASK_[A-Z_]*[A-Z]\b", text))
            self.assertLessEqual(named, known, page.name)


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


class ProbeTests(SimpleTestCase):
    def test_every_option_of_the_probe_is_there(self):
        command = [sys.executable, "-m", "background_task.probe", "--help"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        text = (DOCS / "monitoring.md").read_text()

        options = set(re.findall(r"(?m)^  (--[-\w]+)", said.stdout))
        self.assertEqual(options, {"--max-age", "--ready"})
        for option in options:
            self.assertIn(option, text)


class LifePageTests(SimpleTestCase):
    def test_every_outcome_is_there(self):
        text = (DOCS / "life-of-a-task.md").read_text()
        table = text.partition("## The outcomes")[2].partition("\n## ")[0]
        (logs,) = re.findall(
            r"^\| `outcome` \| .*$", (DOCS / "monitoring.md").read_text(), re.M
        )

        for outcome in (*Attempt.Outcome.values, "Released"):
            self.assertRegex(table, rf"(?m)^\|[^|]*\b{outcome}\b")
            self.assertIn(f"`{outcome}`", logs)


class GlossaryTests(SimpleTestCase):
    def test_it_has_each_word_once(self):
        text = (DOCS / "glossary.md").read_text()
        entries = re.findall(r"^\| (\*\*.*?) \|", text, re.M)
        words = Counter(
            w for entry in entries for w in re.findall(r"\*\*(.+?)\*", entry)
        )

        self.assertGreater(len(words), 50)
        self.assertEqual([word for word, times in words.items() if times > 1], [])


class ExitStatusTests(SimpleTestCase):
    def test_every_exit_status_that_there_is_is_there(self):
        text = (DOCS / "process_tasks.md").read_text().partition("## Exit status")[2]
        documented = [int(status) for status in re.findall(r"^\| (\d+) \|", text, re.M)]
        by_argparse = 2

        there_are = [0, EX_FAILED, by_argparse, EX_STOPPED, EX_UNWRITTEN]
        self.assertEqual(sorted(documented), sorted(there_are))


class CommandsPageTests(SimpleTestCase):
    """Each command has a section; a table there has every option, and no other."""

    def commands(self):
        folder = ROOT / "background_task" / "management" / "commands"
        names = {path.stem for path in folder.glob("task*.py")}
        self.assertGreater(len(names), 10)
        return names

    def documented(self, name):
        text = (DOCS / "commands.md").read_text()
        heading = "tasks_pause" if name == "tasks_resume" else name
        section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.M | re.S)
        self.assertIsNotNone(section, name)
        cells = re.findall(r"^\| (`-.*?`) \|", section[1], re.M)
        return {n for cell in cells for n in re.findall(r"`(-[-\w]+)", cell)}

    def test_every_option_is_there(self):
        theirs = set(BaseCommand().create_parser("", "")._option_string_actions)
        for name in self.commands():
            with self.subTest(name):
                command = load_command_class("background_task", name)
                parser = command.create_parser("manage.py", name)
                ours = set(parser._option_string_actions) - theirs
                also = {"--by"} if name == "tasks_resume" else set()
                self.assertEqual(self.documented(name), ours | also)
                self.assertIn("examples:\n", parser.format_help())


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


class AdminPageTests(SimpleTestCase):
    def test_its_examples_run(self):
        known = dict(tasks._tasks)
        self.addCleanup(tasks._tasks.update, known)
        self.addCleanup(tasks._tasks.clear)
        blocks = examples(DOCS / "admin.md")

        self.assertEqual(len(blocks), 2)
        for block in blocks:
            exec(block, {"__name__": "shop.admin"})

    def test_every_action_and_every_state_is_there(self):
        text = (DOCS / "admin.md").read_text()
        for action in (*OF_TASKS, *OF_COMPLETED, *OF_RUNNERS):
            self.assertRegex(text, rf"(?m)^\|.*{re.escape(str(action.label))}.* \|")
        for state in State:
            self.assertRegex(text, rf"(?m)^\| . {state.label} \|")


class MonitoringPageTests(TestCase):
    PAGE = DOCS / "monitoring.md"

    def names(self):
        """Return the names of all that `/metrics` can have, and of its histograms."""
        told = metrics.Metrics()
        told.take(
            {
                "why_not": "",
                "running": {},
                "workers": 1,
                "held": 0,
                "lease_age": 1.0,
                "queues": [],
                "lost": 0,
                "notes": [{"kind": "turn", "at": 1.0}],
            }
        )
        told._depths._known = metrics.Waiting({}, frozenset(), True)
        for family in told._registry.collect():
            name = family.name
            yield f"{name}_total" if family.type == "counter" else name

    def test_every_metric_is_there_and_no_other(self):
        documented = {name for name in rows("monitoring.md") if "background_" in name}

        self.assertEqual(documented, set(self.names()))

    def test_the_manifests_and_rules_are_yaml_and_name_what_there_is(self):
        text = self.PAGE.read_text()
        blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
        known = set(self.names())

        self.assertEqual(len(blocks), 8)
        read = [yaml.safe_load(block) for block in blocks]
        known |= {"background_task_control"}  # a table
        for block in blocks:
            named = set(re.findall(r"background_task_\w+", block))
            self.assertLessEqual(named, known)
        self.assertEqual(read[-1]["groups"][0]["rules"][0]["alert"], "TasksWaitTooLong")

    @unittest.skipIf(connection.vendor == "mysql", "the query is PostgreSQL's")
    def test_the_query_that_scales_to_none_leaves_out_what_is_paused(self):
        (query,) = re.findall(
            r"query: >-\n(.*?)\n {6}target", self.PAGE.read_text(), re.S
        )
        for queue in ("mail", None):
            make_task(queue=queue)
            make_task(queue=queue, locked_by="r", locked_at=timezone.now())
        counts = []
        for paused in (
            (),
            ("mail",),
            ("mail", control.NO_QUEUE),
            (control.EVERY_QUEUE,),
        ):
            Control.objects.all().delete()
            for target in paused:
                control.pause(target, "ann")
            with connection.cursor() as cursor:
                cursor.execute(query.replace("now()", "CURRENT_TIMESTAMP"))
                counts += cursor.fetchone()

        self.assertEqual(counts, [4, 3, 2, 2])

    def test_its_examples_run(self):
        for block in examples(self.PAGE):
            exec(block, {})


def prose(page):
    """Return the text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    seen = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        yield f"{name}-{seen[name]}" if seen[name] else name
        seen[name] += 1


class LinkTests(SimpleTestCase):
    def pages(self):
        return [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("example/*.md")]

    def links(self):
        """Yield each link that stays here: its page, as it is written, and in two."""
        for page in self.pages():
            for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
                if "://" not in link:
                    path, _, anchor = link.partition("#")
                    yield page, link, page.parent / path if path else page, anchor

    def test_every_link_leads_to_a_file_and_to_a_heading_that_are_there(self):
        known = {page.resolve(): set(anchors(page)) for page in self.pages()}
        found = list(self.links())

        self.assertGreater(len(found), 120)
        for page, link, target, anchor in found:
            with self.subTest(page=page.name, link=link):
                self.assertTrue(target.exists(), "there is no such file")
                if anchor:
                    self.assertIn(anchor, known[target.resolve()])

    def test_every_page_can_be_reached_from_the_readme(self):
        leads = defaultdict(set)
        for page, _, target, _ in self.links():
            pages = target.glob("*.md") if target.is_dir() else [target]
            leads[page.resolve()].update(one.resolve() for one in pages)
        reached, new = set(), {ROOT / "README.md"}
        while new:
            reached |= new
            new = {target for page in new for target in leads[page]} - reached

        self.assertEqual({page.resolve() for page in self.pages()} - reached, set())


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
