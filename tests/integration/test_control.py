"""What people ask of tasks and runners acts, wherever they run."""

import time

import psutil
import pytest

from background_task import control
from background_task.models import Attempt, CompletedTask, Control, Runner, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    is_held,
    row,
    run_until_empty,
    supervised,
    wait_until,
)


class ControlTests(LifecycleTestCase):
    def completed(self, task):
        return wait_until(
            lambda: CompletedTask.objects.filter(task_id=task.pk).first(),
            what=f"{task} is completed",
        )

    @pytest.mark.lifecycle
    def test_a_running_task_is_stopped_and_never_retried(self):
        task = misbehaving.unwind(str(self.journal), "stopped", 600)
        with supervised("--workers", 2):
            pid = self.journal.pid_of("stopped")
            self.assertEqual(control.stop([task.pk], "ops"), 1)
            completed = self.completed(task)
            wait_until(lambda: not Control.objects.exists(), what="it is settled")

        self.assertFalse(psutil.pid_exists(pid))
        self.assertEqual(completed.last_error, "Cancelled by ops")
        self.assertIsNotNone(completed.failed_at)
        self.assertEqual(completed.attempts, 1)
        attempt = Attempt.objects.get(task_id=task.pk)
        self.assertEqual(attempt.outcome, Attempt.Outcome.CANCELLED)
        self.assertIn("unwind", attempt.stack)
        self.assertFalse(Task.objects.exists())

    @pytest.mark.lifecycle
    def test_a_repeating_task_that_is_stopped_goes_on_with_its_chain(self):
        task = misbehaving.work(str(self.journal), "stopped", 600, repeat=3600)
        with supervised("--workers", 1):
            self.journal.pid_of("stopped")
            control.stop([task.pk], "ops")
            completed = self.completed(task)

        self.assertEqual(completed.repeat, 0)
        self.assertEqual(Task.objects.get().repeat, 3600)

    def test_one_whose_try_has_ended_meanwhile_is_cancelled(self):
        task = misbehaving.fail("soon again")
        Control.objects.create(
            verb="stop", target=str(task.pk), by="ops", at=task.run_at
        )
        task.run_at = task.run_at.replace(year=2100)
        task.save()
        with supervised("--workers", 1):
            completed = self.completed(task)

        self.assertEqual(completed.last_error, "Cancelled by ops")
        self.assertEqual(completed.attempts, 0)

    @pytest.mark.lifecycle
    def test_a_paused_queue_rests_until_it_is_resumed_though_runners_come_and_go(self):
        control.pause("mail", "ops")
        paused = misbehaving.work(str(self.journal), "paused", queue="mail")
        other = misbehaving.work(str(self.journal), "other", queue="news")
        none = misbehaving.work(str(self.journal), "none")
        with supervised("--workers", 2):
            self.completed(other)
            self.completed(none)
        with supervised("--workers", 2):
            again = misbehaving.work(str(self.journal), "again")
            self.completed(again)
            self.assertEqual(row(paused).locked_by, None)
            self.assertTrue(control.resume("mail"))
            self.completed(paused)

        self.assertEqual(len(self.journal.begun()), 4)

    def test_nothing_is_claimed_that_was_paused_a_moment_ago(self):
        with supervised("--workers", 2):
            for _ in range(8):
                self.completed(misbehaving.work(str(self.journal), "up", queue="mail"))
                control.pause("mail", "ops")
                paused = misbehaving.work(str(self.journal), "paused", queue="mail")
                self.completed(misbehaving.work(str(self.journal), "other"))
                self.assertEqual(row(paused).locked_by, None)
                paused.delete()
                control.resume("mail")

        self.assertNotIn("paused", self.journal.ended())

    def test_all_are_paused_and_those_of_no_queue(self):
        for target, is_run in (
            (control.EVERY_QUEUE, set()),
            (control.NO_QUEUE, {"mail"}),
        ):
            with self.subTest(target):
                Task.objects.all().delete()
                self.journal.clear()
                control.pause(target, "ops")
                for how in (("--in-process",), ("--workers", 2)):
                    for queue in ("mail", None):
                        label = queue or "none"
                        misbehaving.work(str(self.journal), label, queue=queue)
                    said = run_until_empty(*how)
                    self.assertEqual(set(self.journal.ended()), is_run)
                    name = "everything" if target == "*" else "tasks in no queue"
                    text = f"WARNING What is paused was left alone: {name}\n"
                    self.assertEqual(said.count(text), 1)
                control.resume(target)

    @pytest.mark.lifecycle
    def test_a_runner_is_drained_from_afar(self):
        task = misbehaving.work(str(self.journal), "lasting", 600)
        with supervised("--workers", 2, "--drain-timeout", 0.2) as runner:
            self.journal.pid_of("lasting")
            (known,) = Runner.objects.all()
            self.assertTrue(control.drain(known.pk, "ops"))
            self.assertEqual(runner.ended(), 0)
            self.assertIn("Asked to drain by ops", runner.output)

        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
        self.assertFalse(control.drain(known.pk, "ops"))

    def test_people_see_what_runs_and_what_it_holds(self):
        task = misbehaving.hold_memory(100)
        with supervised("--workers", 2, "--memory-limit", "400M"):
            wait_until(lambda: (r := Runner.objects.first()) and r.running)
            runner = Runner.objects.get()

        (shown,) = runner.running
        self.assertEqual(shown["task"], task.pk)
        self.assertEqual(shown["memory"], 400 * 1024**2)
        self.assertEqual(shown["seconds"], 3600)
        self.assertEqual(runner.slots, 2)
        self.assertLess(time.time() - shown["began"], 60)

    def test_what_a_small_task_holds_is_seen_and_what_it_gives_up(self):
        less, go_on = self.folder / "less", self.folder / "go on"
        small = misbehaving.wait_for(str(self.journal), "small", str(go_on))
        shrinks = misbehaving.hold_less(60, str(less), str(go_on))
        with supervised("--workers", 3, "--memory-limit", "400M"):
            first = wait_until(
                lambda: (now := self.held(small, shrinks)) and now[1] > 50 and now
            )
            less.touch()
            then = wait_until(
                lambda: (now := self.held(small, shrinks)) and now[1] < 30 and now
            )
            go_on.touch()
            self.completed(small)
            self.completed(shrinks)
            peaks = {
                task.pk: task.history.get().peak_memory for task in (small, shrinks)
            }

        self.assertTrue(0 < first[0] < 30 and 0 < then[0] < 30, (first, then))
        self.assertGreater(peaks[small.pk], 0)
        self.assertGreater(peaks[shrinks.pk], 50 << 20)

    def held(self, *tasks):
        """Return what is told that each of these holds, in MiB; None if it is not."""
        runner = Runner.objects.first()
        told = {one["task"]: one["held"] for one in (runner and runner.running) or []}
        found = [told.get(task.pk) for task in tasks]
        return None if None in found else [held / 2**20 for held in found]

    @pytest.mark.lifecycle
    def test_a_running_task_tells_its_stack_and_its_output_and_goes_on(self):
        path = self.folder / "go on"
        task = misbehaving.print_until(str(self.journal), "printing", str(path))
        with supervised("--workers", 1):
            self.journal.pid_of("printing")
            control.ask_stack(task.pk, "ops")
            stack = wait_until(lambda: control.answer("stack", task.pk))
            control.forget("stack", task.pk)
            control.ask_stack(task.pk, "ops")
            again = wait_until(lambda: control.answer("stack", task.pk))
            control.ask_output(task.pk, "ops")
            first = wait_until(lambda: control.answer("output", task.pk))
            longer = wait_until(
                lambda: (
                    (now := control.answer("output", task.pk))["size"] > first["size"]
                    and now
                )
            )
            path.touch()
            completed = self.completed(task)

        for told in (stack, again):
            self.assertIn("in print_until", told["text"])
            self.assertEqual(told["text"].count("in print_until"), 1)
        self.assertIn("line 1\n", longer["text"])
        self.assertIsNone(completed.failed_at)

    @pytest.mark.postgresql
    def test_postgresql_tells_at_once_though_every_slot_is_taken(self):
        task = misbehaving.work(str(self.journal), "stopped", 600)
        settings = {"BACKGROUND_TASK_LEASE": 600}  # nothing else wakes it soon
        with supervised("--workers", 1, settings=settings):
            self.journal.pid_of("stopped")
            wait_until(lambda: is_held(task))
            control.stop([task.pk], "ops")
            self.completed(task)
