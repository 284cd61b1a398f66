"""What log records carry: of a try's end, and of what the task logs itself."""

import json
import os
import signal

import pytest

from background_task import control
from background_task.models import Runner
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    make_due,
    run_until_empty,
    stop,
    supervised,
    wait_until,
)

FIELDS = {"task_id", "task_name", "attempt", "queue", "runner"}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "tests.app.logs.JsonFormatter"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["out"], "level": "INFO"},
}
JSON = {"LOGGING": LOGGING}
SECRET = "a secret argument"


def records(output, **wanted):
    """Return the records that were logged and have these values."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    found = map(json.loads, lines)
    return [one for one in found if wanted.items() <= one.items()]


def of(task, attempt=1):
    return {
        "task_id": task.pk,
        "task_name": task.task_name,
        "attempt": attempt,
        "queue": task.queue,
    }


class LogRecordTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_every_bad_end_is_one_error_with_the_fields_of_its_try(self):
        ends = {
            "Failed": misbehaving.fail("bad"),
            "Crashed": misbehaving.os_exit(7),
            "TimedOut": misbehaving.work(str(self.journal), "long", 600),
        }
        limits = {"tests.app.misbehaving.work": {"max_run_time": 1}}
        settings = {**JSON, "BACKGROUND_TASK_OVERRIDES": limits}

        with supervised("--workers", 3, settings=settings) as runner:
            for task in ends.values():
                attempted(task, 1)
            (supervisor,) = Runner.objects.all()
            stop(runner)
            output = runner.output

        for outcome, task in ends.items():
            (record,) = records(output, level="ERROR", task_id=task.pk)
            self.assertLessEqual(of(task).items(), record.items())
            self.assertEqual(record["outcome"], outcome)
            self.assertEqual(record["runner"], supervisor.pk)
            self.assertEqual(record["logger"], "background_task.tasks")
            (later,) = records(output, level="WARNING", task_id=task.pk)
            self.assertRegex(later["text"], "^Rescheduling task .* later at ")
            self.assertEqual(later["outcome"], outcome)
            self.assertLessEqual(of(task).items(), later.items())
        self.assertEqual(len(records(output, level="ERROR")), len(ends), output)

    def test_what_somebody_has_stopped_is_no_error(self):
        task = misbehaving.work(str(self.journal), "stopped", 600)
        with supervised(settings=JSON) as runner:
            self.journal.pid_of("stopped")
            control.stop([task.pk], "ops")
            wait_until(
                lambda: len(records(runner.output, outcome="Cancelled")) == 2,
                what="it is told",
            )
            stop(runner)
            output = runner.output

        marked, record = records(output, outcome="Cancelled")
        self.assertRegex(marked["text"], "^Marking task .* as failed$")
        for one in (marked, record):
            self.assertLessEqual(of(task).items(), one.items())
            self.assertEqual(one["level"], "WARNING")
        self.assertIn("Cancelled by ops", record["text"])
        self.assertEqual(records(output, level="ERROR"), [])

    def test_a_lost_try_is_an_error_of_the_runner_that_held_it(self):
        task = misbehaving.work(str(self.journal), "lost", 600)
        with supervised(settings=JSON) as runner:
            self.journal.pid_of("lost")
            (dead,) = Runner.objects.values_list("pk", flat=True)
            os.kill(runner.pid, signal.SIGKILL)
            wait_until(runner.is_gone)

        with supervised(settings=JSON) as rescuer:
            attempted(task, 1)
            stop(rescuer)
            output = rescuer.output

        (record,) = records(output, level="ERROR")
        self.assertLessEqual(of(task).items(), record.items())
        self.assertEqual((record["outcome"], record["runner"]), ("Lost", dead))

    def test_what_a_task_logs_carries_the_fields_and_no_argument(self):
        ways = {
            "template": ["--start-method=template"],
            "spawn": ["--start-method=spawn"],
            "reuse": ["--tasks-per-process=5"],
            "in-process": ["--in-process"],
        }
        for way, options in ways.items():
            with self.subTest(way):
                tasks = [misbehaving.log(f"{way} {n}", SECRET) for n in (1, 2)]
                with supervised(*options, settings=JSON) as runner:
                    for task in tasks:
                        attempted(task, 1)
                    make_due(tasks[0])
                    attempted(tasks[0], 2)
                    stop(runner)
                    output = runner.output

                tries = [(tasks[0], 1), (tasks[1], 1), (tasks[0], 2)]
                for task, attempt in tries:
                    said = of(task, attempt)
                    own = records(output, logger="shop", **said)
                    self.assertEqual(len(own), 2, output)
                    self.assertTrue(all(one["runner"] for one in own), own)
                    (bad,) = records(output, level="ERROR", **said)
                    self.assertEqual(bad["runner"], own[0]["runner"])
                    self.assertEqual(bad["outcome"], "Failed")
                mine = records(output, logger="shop", task_id="mine", runner="me")
                self.assertEqual(len(mine), 3, output)
                self.assertNotIn(SECRET, output)
                for task in tasks:
                    task.delete()

    def test_what_others_log_carries_no_fields(self):
        misbehaving.work(str(self.journal), "well")

        output = run_until_empty(settings=JSON)

        ended = [one for one in records(output) if one["text"].startswith("Stopped")]
        self.assertEqual(len(ended), 1, output)
        self.assertFalse(FIELDS & set(ended[0]))
        (well,) = records(output, outcome="Succeeded")
        self.assertEqual(well["level"], "INFO")
