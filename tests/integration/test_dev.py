"""`--dev`: `process_tasks` starts again when the code has changed."""

import os
import signal

from .tools import LifecycleTestCase, supervised, wait_until

TASKS = """
from background_task import background
from tests.app.misbehaving import write

@background(name="edited")
def edited(journal):
    write(journal, "begin", {label!r})
"""


class DevTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        package = self.folder / "edited_app"
        package.mkdir()
        (package / "__init__.py").touch()
        self.tasks = package / "tasks.py"
        from tests.settings import INSTALLED_APPS

        self.how = {
            "settings": {"INSTALLED_APPS": [*INSTALLED_APPS, "edited_app"]},
            "environment": {
                "PYTHONPATH": str(self.folder),
                "PYTHONDONTWRITEBYTECODE": "1",  # two edits may fall into one second
            },
        }

    def edit(self, label):
        self.tasks.write_text(TASKS.format(label=label))

    def schedule(self):
        from background_task.models import Task

        Task.objects.new_task("edited", [str(self.journal)], {}).save()

    def test_a_change_is_run_and_a_broken_one_is_told_and_waited_out(self):
        self.edit("first")
        self.schedule()
        with supervised("--dev", "--sleep", 0.2, **self.how) as runner:
            self.journal.pid_of("first")

            self.tasks.write_text("import (")
            runner.says("has changed: starting again")
            runner.says("SyntaxError")
            runner.says("It ended with status 1; waiting for a change.")

            self.edit("second")
            self.schedule()
            self.journal.pid_of("second")

            runner.signal(signal.SIGTERM)
            self.assertEqual(runner.ended(), 0, runner.output)
            wait_until(runner.is_gone)
            self.assertEqual(runner.output.count("every queue"), 3, runner.output)
        self.assertEqual(self.journal.begun(), ["first", "second"])

    def test_what_ends_well_by_itself_is_not_started_again(self):
        self.edit("only")
        self.schedule()
        with supervised("--dev", "--until-empty", **self.how) as runner:
            self.assertEqual(runner.ended(), 0, runner.output)
        self.assertEqual(self.journal.begun(), ["only"])

    def test_nothing_is_left_of_it_when_the_one_that_watches_is_killed(self):
        self.edit("only")
        with supervised("--dev", **self.how) as runner:
            wait_until(runner.is_up)
            os.kill(runner.pid, signal.SIGKILL)
            wait_until(runner.is_gone)
