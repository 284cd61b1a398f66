"""What others can see of a task: its name and id, never its arguments."""

from background_task.models import Task
from tests.app import misbehaving

from .tools import EVERYTHING, LifecycleTestCase, stop, supervised, wait_until


class TitleTests(LifecycleTestCase):
    def test_titles_tell_the_task_and_not_its_arguments(self):
        secret = "hunter2-is-my-password"
        path = self.folder / "go on"
        task = misbehaving.wait_for(str(self.journal), secret, str(path))
        done = misbehaving.work(str(self.journal), "done", password=secret)
        failed = Task.objects.new_task(
            "tests.app.misbehaving.fail", ("a reason",), {"unexpected": secret}
        )
        failed.save()

        with supervised("--workers", 3, settings={"LOGGING": EVERYTHING}) as runner:
            self.journal.pid_of(secret)
            wait_until(lambda: "done" in self.journal.ended())
            runner.says(f"Rescheduling task {failed.pk} ({failed})")
            wait_until(lambda: "1/3 supervisor" in str(runner.titles()))
            titles = runner.titles()
            path.touch()
            status = stop(runner)
            output = runner.output

        name = "tests.app.misbehaving.wait_for"
        self.assertIn(f"background_task: task {task.pk} {name}", titles)
        self.assertIn("background_task: bookkeeper", titles)
        self.assertIn("background_task: launcher (template)", titles)
        self.assertIn(f"Ran task and deleting task {done.pk} ({done})", output)
        self.assertNotIn(secret, "\n".join(titles))
        self.assertNotIn(secret, output)
        self.assertEqual(status, 0)
