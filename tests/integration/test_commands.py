"""The commands by which people look at tasks and act on them, as processes."""

import contextlib
import json
import signal

import psutil
import pytest
from django.db import connection

from background_task import control
from background_task.models import Attempt, CompletedTask, Control, Runner, Task
from tests.app import misbehaving
from tests.background_task.tools import make_task

from .tools import (
    LifecycleTestCase,
    command,
    commanding,
    completed,
    is_held,
    row,
    run_until_empty,
    supervised,
    wait_until,
)


class HealthTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_the_exit_status_and_the_line_say_how_it_is(self):
        path = self.folder / "go on"
        misbehaving.wait_for(str(self.journal), "held", str(path), queue="mail")
        nobody = command("tasks_health")
        with supervised("--workers", 1):
            self.journal.pid_of("held")
            well = command("tasks_health")
            make_task(name="x", queue="mail")
            old = command("tasks_health", "--max-age", "30s")
            many = command("tasks_health", "--max-backlog", "0")
            other = command("tasks_health", "--max-backlog", "0", "--queue", "news")
            control.pause("mail", "ops")
            paused = command("tasks_health", "--max-age", "30s", "--max-backlog", "0")
        wrong = command("tasks_health", "--max-age", "soon")

        self.assertEqual([s for s, _, _ in (nobody, old, many)], [1, 1, 1])
        self.assertIn("1 task in queue mail is due, and no living runner", nobody[2])
        self.assertRegex(old[2], r"is \d+ s old, over --max-age 30, in queue mail")
        self.assertIn("1 task in queue mail is due, over --max-backlog 0", many[2])
        self.assertEqual((well[0], other[0], paused[0]), (0, 0, 0))
        self.assertIn("Well: runners: 1; due: 0", well[1])
        self.assertIn("paused, and left out: queue mail", paused[1])
        self.assertEqual(wrong[0], 2)
        self.assertIn("'soon' is no time", wrong[2])

    @pytest.mark.lifecycle
    def test_a_database_that_is_away_is_one_line(self):
        databases = self.away()
        status, out, err = command("tasks_health", databases=databases)

        self.assertEqual((status, out), (1, ""))
        self.assertIn("The database 'default' can't be used now", err)
        self.assertEqual(len(err.strip().splitlines()), 1)

        status, out, _ = command("tasks_health", "--json", databases=databases)
        self.assertEqual(status, 1)
        self.assertFalse(json.loads(out)["healthy"])

    def away(self):
        where = {
            name: str(connection.settings_dict[name])
            for name in ("NAME", "HOST", "PORT", "USER", "PASSWORD")
        }
        if connection.vendor == "sqlite":
            return {"default": where | {"NAME": "/nowhere/at/all"}}
        return {"default": where | {"HOST": "127.0.0.1", "PORT": "1"}}


class LogTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_a_log_is_followed_until_the_task_has_ended(self):
        path = self.folder / "go on"
        task = misbehaving.print_until(str(self.journal), "it", str(path))
        with (
            supervised("--workers", 1),
            commanding("task_log", task.pk, "--follow") as follower,
        ):
            shown = [follower.stdout.readline() for _ in range(50)]
            path.touch()
            shown += follower.stdout.readlines()
            remarks = follower.stderr.read()
            follower.wait(60)

        printed = Attempt.objects.get(task_id=task.pk).output
        self.assertEqual("".join(shown), printed)
        self.assertIn("line 1\n", shown)
        self.assertIn(f"Task {task.pk} succeeded.", remarks)
        self.assertEqual(follower.returncode, 0)
        self.assertFalse(Control.objects.exists())

    @pytest.mark.lifecycle
    def test_a_log_until_now_and_ctrl_c(self):
        path = self.folder / "go on"
        task = misbehaving.print_until(str(self.journal), "it", str(path))
        with supervised("--workers", 1):
            self.journal.pid_of("it")
            status, out, _ = command("task_log", task.pk)
            with commanding("task_log", task.pk, "-f") as follower:
                follower.stdout.readline()
                follower.send_signal(signal.SIGINT)
                remarks = follower.stderr.read()
                follower.wait(60)

        self.assertEqual(status, 0)
        self.assertIn("line 1\nline 2\n", out)
        self.assertEqual(follower.returncode, 130)
        self.assertNotIn("Traceback", remarks)
        self.assertFalse(Control.objects.exists())

    def test_it_follows_from_try_to_try_to_the_failure(self):
        task = misbehaving.fail_for_good("it")
        with commanding("task_log", task.pk, "-f") as follower:
            self.assertIn("waits", follower.stderr.readline())
            run_until_empty()
            remarks = follower.stderr.read()
            follower.wait(60)

        self.assertEqual(follower.returncode, 0)
        self.assertIn("Try 1 failed", remarks)
        self.assertIn(f"Task {task.pk} failed for good: ", remarks)

    def test_of_a_retry_it_follows_what_is_new(self):
        once = {"BACKGROUND_TASK_MAX_ATTEMPTS": 1}
        misbehaving.talk_and_fail()
        run_until_empty(settings=once)
        (pk,) = control.retry([CompletedTask.objects.get().pk]).values()
        before = command("task_log", pk)
        with commanding("task_log", pk, "-f") as follower:
            self.assertIn("waits", follower.stderr.readline())
            run_until_empty(settings=once)
            said = follower.stdout.read()
            remarks = follower.stderr.read()

        self.assertIn("about to fail", before[1])
        self.assertIn("about to fail", said)
        self.assertEqual(remarks.count("Try 1 failed"), 1)
        self.assertEqual(Attempt.objects.filter(task_id=pk, number=1).count(), 2)


class StackTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_the_stack_of_one_that_runs_and_why_there_is_none(self):
        running = misbehaving.unwind(str(self.journal), "running", 600)
        with supervised("--workers", 1):
            self.journal.pid_of("running")
            status, out, remark = command("task_stack", running.pk)
            whole = command("task_stack", running.pk, "--all")
            waiting = misbehaving.fail("waits")
            refused = command("task_stack", waiting.pk)
            control.stop([running.pk], "ops")
            wait_until(lambda: row(running) is None)
            kept = command("task_stack", running.pk)
        unknown = command("task_stack", 10**6)

        self.assertEqual((status, out.count("in unwind")), (0, 1))
        self.assertNotIn("background_task", out)
        self.assertRegex(remark, r"Left out: \d+ lines of the runner's. --all shows")
        self.assertIn("in unwind", whole[1])
        self.assertIn("in execute", whole[1])
        self.assertNotIn("Left out", whole[2])
        self.assertNotIn("in execute", kept[1])
        self.assertEqual(refused[0], 1)
        self.assertIn("does not run: it waits", refused[2])
        self.assertIn("in unwind", kept[1])
        self.assertIn("when it ended: Cancelled", kept[2])
        self.assertEqual(unknown[0], 1)
        self.assertIn("There is no task 1000000", unknown[2])


class RunTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_one_task_is_run_here_due_or_not_and_recorded(self):
        task = misbehaving.print_until(
            "/dev/null", "it", "/", schedule=3600, repeat=Task.DAILY
        )
        other = misbehaving.work(str(self.journal), "other")
        status, _, err = command("task_run", task.pk)

        ended = completed(task)
        self.assertEqual((status, ended.failed_at), (0, None))
        self.assertRegex(err, rf"Task {task.pk} \(\S+\) succeeded after [\d.]+ m?s")
        attempt = Attempt.objects.get(task_id=task.pk)
        self.assertEqual((attempt.number, attempt.outcome), (1, "Succeeded"))
        planned = Task.objects.get(repeat=Task.DAILY).run_at
        self.assertEqual(planned, task.run_at)  # this was one run more
        self.assertEqual(row(other).attempts, 0)
        self.assertFalse(Runner.objects.exists())

    @pytest.mark.lifecycle
    def test_a_failure_is_recorded_and_is_tried_once(self):
        task = misbehaving.talk_and_fail()
        status, out, err = command("task_run", task.pk)

        self.assertEqual(status, 1)
        self.assertIn("about to fail\n", out)
        self.assertEqual((out + err).count("Traceback"), 1)
        self.assertIn("ERROR Rescheduling task", err)
        self.assertIn("ValueError: I fail", err)
        self.assertRegex(err, r"has failed after [\d.]+ m?s.*, and is tried again at")
        self.assertEqual((row(task).attempts, row(task).locked_by), (1, None))

    @pytest.mark.lifecycle
    def test_what_the_settings_say_of_runners_is_not_of_this_one(self):
        beat, go_on = self.folder / "beat", self.folder / "go on"
        settings = {
            "BACKGROUND_TASK_QUEUES": ["mail:2", "news:1"],
            "BACKGROUND_TASK_EXCLUDE_QUEUES": ["reports"],
            "BACKGROUND_TASK_WORKERS": 3,
            "BACKGROUND_TASK_HEARTBEAT_FILE": str(beat),
        }
        task = misbehaving.wait_for(
            str(self.journal), "it", str(go_on), queue="reports"
        )
        with supervised(settings=settings):
            wait_until(beat.exists)
            (runner,) = wait_until(lambda: list(Runner.objects.all()))
            with commanding("task_run", task.pk, settings=settings) as run:
                self.journal.pid_of("it")
                mine = Runner.objects.exclude(pk=runner.pk).get()
                health = command("tasks_health", "--json", settings=settings)
                go_on.touch()
                _, err = run.communicate(timeout=60)

        self.assertEqual(run.returncode, 0, err)
        self.assertEqual((mine.queues, mine.excluded_queues, mine.slots), ([], [], 1))
        self.assertTrue(mine.draining)
        self.assertEqual(json.loads(health[1])["runners"], 1)

    @pytest.mark.lifecycle
    def test_a_claim_that_goes_wrong_is_said_once(self):
        task = misbehaving.work(str(self.journal), "it")
        with refusing_claims():
            status, _, err = command("task_run", task.pk)

        self.assertEqual(status, 1)
        self.assertIn("CommandError: It could not be claimed: ", err)
        self.assertIn("not today", err)
        self.assertEqual(err.count("A turn with 0 outcomes failed"), 1)
        self.assertFalse(self.journal.begun() or Runner.objects.exists())

    def test_its_limits_hold(self):
        task = misbehaving.hold_memory(300)
        status, _, err = command("task_run", task.pk, "--memory-limit", "100M")

        self.assertEqual(status, 1)
        self.assertIn("over the limit of 100 MiB (--memory-limit)", err)

    @pytest.mark.lifecycle
    def test_a_limit_that_cannot_be_is_a_wrong_call(self):
        task = misbehaving.work(str(self.journal), "it")

        status, _, err = command("task_run", task.pk, "--memory-limit", "5X")

        self.assertEqual(status, 2)
        self.assertIn("--memory-limit is '5X'", err)
        self.assertEqual(row(task).attempts, 0)

    def test_what_is_held_is_refused(self):
        task = misbehaving.work(str(self.journal), "it", 600)
        with supervised("--workers", 1):
            self.journal.pid_of("it")
            wait_until(lambda: is_held(task))
            status, _, err = command("task_run", task.pk)

        self.assertEqual(status, 3)
        self.assertRegex(err, rf"Task {task.pk} .* is held by .* since")
        self.assertEqual(self.journal.begun(), ["it"])

    def test_what_has_ended_or_has_no_function_is_refused(self):
        task = misbehaving.work(str(self.journal), "it")
        run_until_empty()
        unknown = make_task(name="nobody.knows")
        ended = command("task_run", task.pk)
        unregistered = command("task_run", unknown.pk)

        self.assertEqual((ended[0], unregistered[0]), (3, 3))
        self.assertIn("has ended. --replay", ended[2])
        self.assertIn("registered as nobody.knows", unregistered[2])

    @pytest.mark.lifecycle
    def test_ctrl_c_gives_it_back(self):
        task = misbehaving.work(str(self.journal), "it", 600)
        with commanding("task_run", task.pk) as run:
            pid = self.journal.pid_of("it")
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=60)

        self.assertEqual(run.returncode, 130)
        self.assertIn("Stopped, and given back at no attempt's cost.\n", err)
        self.assertFalse(psutil.pid_exists(pid))
        self.assertEqual((row(task).attempts, row(task).locked_by), (0, None))
        self.assertFalse(Attempt.objects.exists())

    @pytest.mark.lifecycle
    def test_ctrl_c_stops_a_replay_which_has_nothing_to_give_back(self):
        task = misbehaving.work(str(self.journal), "it", 600)
        before = self.books()
        with commanding("task_run", "--replay", task.pk) as run:
            pid = self.journal.pid_of("it")
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=60)

        self.assertEqual(run.returncode, 130)
        self.assertIn("Stopped.\n", err)
        self.assertNotIn("iven back", err)
        self.assertFalse(psutil.pid_exists(pid))
        self.assertEqual(self.books(), before)

    @pytest.mark.lifecycle
    def test_a_replay_runs_and_writes_nothing_to_the_books(self):
        task = misbehaving.work(str(self.journal), "it")
        waiting = misbehaving.talk_and_fail(schedule=3600)
        with supervised("--workers", 1):
            ended = completed(task)
        before = self.books()
        again = command("task_run", "--replay", task.pk)
        by_row = command("task_run", "--replay", "--completed", ended.pk)
        failing = command("task_run", "--replay", waiting.pk)

        self.assertEqual((again[0], by_row[0], failing[0]), (0, 0, 1))
        self.assertEqual(self.journal.ended(), ["it"] * 3)
        self.assertIn("whatever it does is done once more", again[2])
        self.assertRegex(again[2], rf"Task {task.pk} \(\S+\) succeeded after")
        self.assertNotIn("succeeded", failing[2])
        self.assertIn("ValueError: I fail", failing[2])
        self.assertEqual(self.books(), before)

    def test_a_replay_has_the_limit_of_its_call(self):
        once = {"BACKGROUND_TASK_MAX_ATTEMPTS": 1}
        task = misbehaving.work(str(self.journal), "it", 600, max_run_time=0.5)
        run_until_empty(settings=once)

        status, _, err = command("task_run", "--replay", task.pk)

        self.assertEqual(completed(task).max_run_time, 0.5)
        self.assertEqual(status, 1)
        self.assertIn("Stopped after 0.5 s", err)

    def books(self):
        models = Task, CompletedTask, Attempt, Runner, Control
        return [list(model.objects.order_by("pk").values()) for model in models]

    def test_a_paused_task_that_is_named_is_run_and_it_is_told(self):
        task = misbehaving.work(str(self.journal), "it", queue="mail")
        control.pause("mail", "ann")
        status, _, err = command("task_run", task.pk)

        self.assertEqual(status, 0)
        self.assertIn("Paused by ann since", err)
        self.assertNotIn("left alone", err)


REFUSE = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE UPDATE OF locked_by ON background_task "
        "BEGIN SELECT RAISE(ABORT, 'not today'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger AS "
        "$$ BEGIN RAISE EXCEPTION 'not today'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER refuse BEFORE UPDATE OF locked_by ON background_task "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
    "mysql": [
        "CREATE TRIGGER refuse BEFORE UPDATE ON background_task FOR EACH ROW "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'"
    ],
}


@contextlib.contextmanager
def refusing_claims():
    """Have the database refuse, meanwhile, that a task is locked."""
    is_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        for statement in REFUSE[connection.vendor]:
            cursor.execute(statement)
        try:
            yield
        finally:
            on_table = " ON background_task" if is_postgresql else ""
            cursor.execute(f"DROP TRIGGER refuse{on_table}")
            if is_postgresql:
                cursor.execute("DROP FUNCTION refuse()")


class StatusTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_what_runs_is_shown_with_its_limits_and_its_progress(self):
        path = self.folder / "go on"
        task = misbehaving.count(str(path))
        with supervised("--workers", 3, "--memory-limit", "400M"):
            wait_until(lambda: (r := Runner.objects.first()) and r.running)
            wait_until(lambda: (row(task).progress_done or 0) > 0)
            status, table, _ = command("tasks_status")
            text = command("tasks_status", "--json")[1]

        told = json.loads(text)
        (running,), (runner,) = told["running"], told["runners"]
        self.assertEqual(status, 0)
        self.assertIn("400M", table)
        self.assertNotIn("\x1b", table)
        self.assertEqual(running["task"], task.pk)
        self.assertEqual(running["memory_limit"], 400 * 1024**2)
        self.assertGreater(running["progress"]["done"], 0)
        self.assertEqual(running["progress"]["total"], 10**6)
        self.assertEqual((runner["used"], runner["slots"]), (1, 3))
        self.assertFalse(runner["stale"])
