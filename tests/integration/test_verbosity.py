"""`process_tasks -v`, in a project that configures no log and in one that does."""

from background_task.models import CompletedTask, Task
from tests.app import misbehaving

from .tools import QUIET, LifecycleTestCase, run_until_empty

MOMENT = r"\d{4}-\d\d-\d\d [\d:,]+"


class VerbosityTests(LifecycleTestCase):
    def output(self, *options, settings=None):
        """Return what is said of one success and one failure."""
        self.done = misbehaving.work(str(self.journal), "done")
        self.failed = misbehaving.fail("a bad day")
        output = run_until_empty(*options, settings=settings or QUIET)
        CompletedTask.objects.get().delete()
        Task.objects.get().delete()
        return output

    def test_errors_only(self):
        for way in ((), ("--in-process",)):
            output = self.output("-v", 0, *way)

            self.assertRegex(output, rf"^{MOMENT} ERROR Rescheduling task")
            self.assertIn("ValueError: a bad day", output)
            self.assertEqual(output.count("Rescheduling"), 1)

    def test_by_default_warnings_too(self):
        for options in ((), ("-v", 1)):
            output = self.output(*options)

            self.assertTrue(output.startswith("django-background-tasks"), output)
            self.assertRegex(output, rf"\n{MOMENT} WARNING .* for 0:00:06 later")
            self.assertNotIn("Ran task", output)

    def test_what_happens(self):
        for way in (("--start-method", "spawn"), (), ("--in-process",)):
            output = self.output("-v", 2, *way)

            for task in (self.done, self.failed):
                running = f" INFO Running task {task.pk} ({task})\n"
                self.assertEqual(output.count(running), 1, output)
            self.assertIn(" INFO Ran task and deleting", output)
            self.assertNotIn("DEBUG", output)

    def test_everything(self):
        for way in ((), ("--in-process", "--until-empty")):
            output = self.output("-v", 3, *way)

            self.assertIn(" INFO Ran task and deleting", output)
        self.assertIn(" DEBUG ", self.output("-v", 3))

    def test_what_the_project_configures_stands(self):
        logging = {
            "version": 1,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "root": {"handlers": ["console"], "level": "CRITICAL"},
        }
        for verbosity in (0, 3):
            output = self.output("-v", verbosity, settings={"LOGGING": logging})

            self.assertNotIn("Rescheduling", output)
            self.assertNotIn("Ran task", output)
