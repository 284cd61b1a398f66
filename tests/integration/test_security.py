"""What a row can have run, and who sees its arguments."""

import contextlib
import os
import re
import signal
import stat
import sys

import psutil
import pytest
from django.db import connection

from background_task.models import Attempt, CompletedTask, Runner, Task
from background_task.tasks import tasks
from tests.app import misbehaving
from tests.background_task.tools import make_unreadable

from .tools import (
    ROOT,
    LifecycleTestCase,
    completed,
    put,
    row,
    run_until_empty,
    stop,
    supervised,
    wait_until,
)

SECRET = "canary-hunter2"
# All there is of everybody, Django's own included.
ALL = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "DEBUG"},
    "loggers": {"background_task": {"level": "DEBUG"}},
}
# A row that may not be among the completed, in every database's own words.
REFUSE = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE INSERT ON background_task_completedtask "
        "WHEN NEW.queue = 'refused' BEGIN SELECT RAISE(ABORT, 'refused'); END"
    ],
    "postgresql": [
        "ALTER TABLE background_task_completedtask "
        "ADD CONSTRAINT refuse CHECK (queue <> 'refused')"
    ],
    "mysql": [
        "ALTER TABLE background_task_completedtask "
        "ADD CONSTRAINT refuse CHECK (queue <> 'refused')"
    ],
}[connection.vendor]
ALLOW = {
    "sqlite": "DROP TRIGGER refuse",
    "postgresql": "ALTER TABLE background_task_completedtask DROP CONSTRAINT refuse",
    "mysql": "ALTER TABLE background_task_completedtask DROP CONSTRAINT refuse",
}[connection.vendor]


def execute(*statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


class SecretTests(LifecycleTestCase):
    """The arguments of a task are in its row, and nowhere else."""

    def setUp(self):
        super().setUp()
        self.seen = set()

    def keep(self, how, **about):
        return misbehaving.keep_a_secret(SECRET, how, str(self.journal), **about)

    def look(self, runner):
        """Note what `ps` and /proc tell anybody of the runner's processes."""
        for process in runner.processes():
            with contextlib.suppress(psutil.Error):
                self.seen.add(" ".join(process.cmdline()))
                self.seen.add(process.name())
                self.seen.add(str(process.environ()))

    def texts(self):
        """Return every text in our tables but for the arguments themselves."""
        for model in (Task, CompletedTask, Attempt, Runner):
            columns = {f.name for f in model._meta.concrete_fields}
            columns -= {"task_params", "run_at", "repeat_until"}  # some unreadable
            for values in model.objects.values(*columns):
                yield from map(str, values.values())

    def assert_nobody_knows(self, *outputs):
        for text in (*outputs, *self.seen, *self.texts()):
            self.assertNotIn(SECRET, text)

    @pytest.mark.lifecycle
    def test_no_ending_tells_the_arguments(self):
        execute(*REFUSE)
        self.addCleanup(execute, ALLOW)
        hows = ("succeed", "fail", "mute", "exit", "crash", "memory")
        ended = [self.keep(how) for how in hows]
        refused = [self.keep(how, queue="refused") for how in ("succeed", "fail")]
        late = self.keep("time", max_run_time=1)
        unreadable = self.keep("succeed")
        make_unreadable(unreadable)
        params = (
            f'"{SECRET}"',
            f'[["{SECRET}"], "{SECRET}"]',
            f'[["{SECRET}"], {{"{SECRET}": ',
            f'[["{SECRET}", "{SECRET}", 1, 2, 3], {{}}]',
        )
        wrong = [put("keep_a_secret", task_params=text) for text in params]
        if connection.vendor == "sqlite":
            undecodable = self.keep("succeed")
            text = f'[["{SECRET}'.encode().hex() + "ff"
            execute(
                f"UPDATE background_task SET task_params = CAST(X'{text}' AS TEXT) "
                f"WHERE id = {undecodable.pk}"
            )
        lasting = self.keep("drain")

        settings = {"LOGGING": ALL, "MAX_ATTEMPTS": 1}
        options = ("--workers", 4, "--memory-limit", "100M", "--drain-timeout", 0)
        with supervised(*options, "-v", 3, settings=settings) as runner:
            for task in (*ended, *wrong, late):
                wait_until(lambda t=task: self.look(runner) or completed_row(t))
            for task in refused:
                wait_until(lambda t=task: self.look(runner) or error_of(t))
            wait_until(lambda: error_of(unreadable))
            if connection.vendor == "sqlite":
                wait_until(lambda: error_of(undecodable))
            self.journal.pid_of("drain")
            self.look(runner)
            status = stop(runner)
            output = runner.output

        self.assertEqual(status, 0)
        self.assertEqual((row(lasting).attempts, row(lasting).locked_by), (0, None))
        self.assertIn("Its row can't be read", error_of(unreadable))
        self.assertIn("that could not be recorded", error_of(refused[0]))
        self.assertRegex(error_of(refused[0]), "refuse")
        found = set(Attempt.objects.values_list("outcome", flat=True))
        self.assertLessEqual(
            {"Succeeded", "Failed", "Crashed", "OutOfMemory", "TimedOut"}, found
        )
        self.assert_nobody_knows(output)

    def test_a_runner_that_was_killed_tells_no_arguments(self):
        lost = self.keep("time")
        with supervised("-v", 3, settings={"LOGGING": ALL}) as runner:
            self.journal.pid_of("time")
            self.look(runner)
            runner.kill()
            first = runner.output
        with supervised("-v", 3, settings={"LOGGING": ALL}) as runner:
            wait_until(lambda: row(lost).attempts == 1)
            stop(runner)
            self.assert_nobody_knows(first, runner.output)

    def test_processes_that_are_spawned_or_reused_tell_no_arguments(self):
        for way in (["--start-method", "spawn"], ["--tasks-per-process", 5]):
            for how in ("succeed", "fail"):
                self.keep(how)
            lasting = self.keep("drain")
            options = (*way, "--workers", 2, "--drain-timeout", 0, "-v", 3)
            with supervised(*options, settings={"LOGGING": ALL}) as runner:
                self.journal.pid_of("drain")
                self.look(runner)
                stop(runner)
                self.assert_nobody_knows(runner.output)
            self.journal.clear()
            lasting.delete()

    def test_the_in_process_runner_tells_no_arguments(self):
        for how in ("succeed", "fail"):
            self.keep(how)
        put("keep_a_secret", task_params=f'["{SECRET}"')

        output = run_until_empty("--in-process", "-v", 3, settings={"LOGGING": ALL})

        self.assertEqual(self.journal.begun(), ["succeed", "fail"])
        self.assert_nobody_knows(output)


def completed_row(task):
    return CompletedTask.objects.filter(
        task_hash=task.task_hash, task_params=task.task_params
    ).first()


def error_of(task):
    return Task.objects.filter(pk=task.pk).values_list("last_error", flat=True).first()


class NameTests(LifecycleTestCase):
    """A row names a function that a tasks.py has registered, or nothing is run."""

    @pytest.mark.lifecycle
    def test_what_a_row_names_is_never_imported(self):
        imported = self.folder / "imported"
        module = self.folder / "canary_module.py"
        module.write_text(f"open({str(imported)!r}, 'w').close()\nrun = print\n")
        names = (
            "os.system",
            "builtins.exec",
            "tests.app.models:User",
            "tests.app.misbehaving:work",
            "background_task.execution:execute",
            "canary_module",
            "canary_module.run",
            "canary_module:run",
            "canary_module.tasks",
            "../canary_module",
            "__import__('canary_module')",
        )
        rows = [tasks._runner.schedule(name, (str(imported),), {}) for name in names]
        environment = {"PYTHONPATH": str(self.folder)}
        ways = ([], ["--start-method", "spawn"], ["--in-process"])

        for way in ways:
            healthy = misbehaving.work(str(self.journal), f"healthy {way}")
            run_until_empty(*way, environment=environment)
            completed(healthy)

        self.assertFalse(imported.exists())
        for task in rows:
            kept = row(task)
            self.assertEqual((kept.attempts, kept.locked_by), (0, None))
            self.assertIsNone(kept.failed_at)

    def test_nor_where_it_is_run_by_hand(self):
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.path.remove, str(self.folder))
        (self.folder / "canary_module.py").write_text("raise SystemExit('imported')\n")
        task = tasks._runner.schedule("canary_module.run", (), {})

        with self.assertRaises(KeyError):
            tasks.run_task(task)
        self.assertFalse(tasks.run_next_task())
        self.assertNotIn("canary_module", sys.modules)


class PrivacyTests(LifecycleTestCase):
    """What others find of a runner's files and sockets: nothing that has a name."""

    def test_folders_are_the_users_own_and_sockets_have_no_name(self):
        misbehaving.work(str(self.journal), "running", 600)
        environment = {"TMPDIR": str(self.folder)}
        former = os.umask(0)
        self.addCleanup(os.umask, former)

        with supervised("--drain-timeout", 0, environment=environment) as runner:
            self.journal.pid_of("running")
            made = [*self.folder.glob("background-task-*")]
            made += [*self.folder.glob("background-task-*/*")]
            modes = {stat.S_IMODE(path.stat().st_mode) for path in made}
            named = [
                socket.laddr
                for process in runner.processes()
                for socket in process.net_connections("unix")
                if socket.laddr
            ]
            runner.signal(signal.SIGTERM)
            self.assertEqual(runner.ended(), 0)

        self.assertEqual(len(made), 2)
        self.assertEqual(modes, {0o700})
        self.assertEqual(named, [])


@pytest.mark.lifecycle
class QuotedRowTests(LifecycleTestCase):
    """Databases quote in their errors what a row holds."""

    def test_a_lost_rows_error_tells_no_arguments(self):
        execute(*REFUSE)
        self.addCleanup(execute, ALLOW)
        held = put("keep_a_secret", SECRET, "x", "y", queue="refused", attempts=24)
        Task.objects.filter(pk=held.pk).update(locked_by="a ghost")

        output = run_until_empty(settings={"LOGGING": ALL})

        self.assertRegex(error_of(held), "that could not be recorded: .*refuse")
        self.assertNotIn(SECRET, error_of(held) + output)

    def test_the_in_process_runners_tells_none(self):
        execute(*REFUSE)
        self.addCleanup(execute, ALLOW)
        task = put("keep_a_secret", SECRET, "x", str(self.journal), queue="refused")

        output = run_until_empty("--in-process", settings={"LOGGING": ALL})

        self.assertRegex(output, "Abandoning task")
        self.assertTrue(re.search("refuse", error_of(task)))
        self.assertNotIn(SECRET, error_of(task) + output)


@pytest.mark.postgresql
class OutputTests(LifecycleTestCase):
    def test_the_trigger_of_the_documentation_keeps_no_output(self):
        page = (ROOT / "docs" / "security.md").read_text()
        (sql,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
        execute(sql)
        self.addCleanup(execute, "DROP FUNCTION forget_output() CASCADE")
        misbehaving.talk()

        output = run_until_empty()

        attempt = Attempt.objects.get()
        self.assertEqual(attempt.output, "")
        self.assertGreater(attempt.output_size, 0)
        self.assertIn("err, another line", output)
