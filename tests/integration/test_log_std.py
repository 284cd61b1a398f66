"""`--log-std`: what tasks print is logged."""

from background_task.models import CompletedTask

from .tools import LOGGING, LifecycleTestCase, put, run_until_empty

NAME = "background_task.management.commands.process_tasks"


class LogStdTests(LifecycleTestCase):
    def test_each_line_is_logged_by_its_stream(self):
        for options in [(), ("--in-process",)]:
            with self.subTest(options):
                put("talk")

                output = run_until_empty("--log-std", *options)

                self.assertIn("INFO out, one line\n", output)
                self.assertIn("ERROR err, another line\n", output)
                self.assertIn("INFO no end of line\n", output)
                self.assertIsNone(CompletedTask.objects.get().failed_at)
                CompletedTask.objects.all().delete()

    def test_a_project_that_configures_no_log_sees_errors_once(self):
        put("talk")

        output = run_until_empty("--log-std", settings={"LOGGING": {"version": 1}})

        self.assertEqual(output.count("err, another line"), 1)
        self.assertNotIn("out, one line", output)

    def test_without_it_what_tasks_print_stays_where_it_was(self):
        put("talk")

        output = run_until_empty(settings={"LOGGING": LOGGING})

        self.assertIn("\nout, one line\n", output)
        self.assertNotIn("INFO out, one line", output)
