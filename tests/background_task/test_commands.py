"""The commands by which people look at tasks and act on them."""

import copy
import json
from datetime import timedelta
from io import StringIO
from unittest import skipIf

from django.core.management import CommandError, call_command
from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from background_task import control, inuse
from background_task.management.commands import _family, task_log, tasks_health
from background_task.models import Attempt, CompletedTask, Control, Runner, Task

from .test_status import make_completed
from .tools import KNOWN, half_an_app, make_runner, make_task, somebody_else


class CommandTestCase(TestCase):
    def call(self, *arguments):
        """Return (stdout, stderr)."""
        out, err = StringIO(), StringIO()
        call_command(*map(str, arguments), stdout=out, stderr=err, no_color=True)
        return out.getvalue(), err.getvalue()

    def refused(self, *arguments):
        """Return (exit status, text)."""
        with self.assertRaises(CommandError) as caught:
            self.call(*arguments)
        return caught.exception.returncode, str(caught.exception)


class StatusTests(CommandTestCase):
    def test_the_table_has_it_all(self):
        make_task(queue="mail", run_at=timezone.now() - timedelta(minutes=3))
        control.pause("mail", "ann")
        make_runner("abcdefghijkl", trusted_for=timedelta(seconds=-1))
        make_runner("another")
        make_completed("shop.tasks.send")

        out, _ = self.call("tasks_status")

        self.assertRegex(out, r"mail +1 +1 +3m\S* +0 +0 +0\n")
        self.assertIn("Paused: queue mail, by ann, since ", out)
        self.assertRegex(out, r"abcdefgh  a-host +4711 .* stale\n")
        self.assertRegex(out, r"another   a-host +4711 .* serving\n")
        self.assertIn("1 of the 1 that ended in the last hour", out)
        self.assertTrue(out.endswith(" 1  shop.tasks.send\n"))

    def test_names_that_nobody_registers_are_told(self):
        make_task("shop.tasks.mail", run_at=timezone.now())
        make_task("shop.tasks.mail")
        make_task("shop.tasks.bill")
        make_task(KNOWN)
        make_task("shop.tasks.later", run_at=timezone.now() + timedelta(hours=1))

        out, _ = self.call("tasks_status")
        told = json.loads(self.call("tasks_status", "--json")[0])

        self.assertIn(
            "3 due tasks are of names that no tasks.py here registers: "
            "shop.tasks.mail, shop.tasks.bill.\n",
            out,
        )
        self.assertEqual(
            told["unregistered"],
            [
                {"name": "shop.tasks.mail", "due": 2, "at_least": False},
                {"name": "shop.tasks.bill", "due": 1, "at_least": False},
            ],
        )

    def test_what_cannot_be_imported_is_told(self):
        make_task("shop.tasks.mail")
        make_runner()
        with half_an_app():
            out, _ = self.call("tasks_status")
            told = json.loads(self.call("tasks_status", "--json")[0])
            well, remark = self.call("tasks_health")

        text = "a tasks.py cannot be imported (ModuleNotFoundError: No module named"
        self.assertIn(text, out)
        self.assertIsNone(told["unregistered"])
        self.assertIn("Well: runners: 1; due: 1", well)
        self.assertIn(text, remark)

    def test_what_was_cancelled_has_not_failed(self):
        control.cancel([make_task().pk], "ann")

        out, _ = self.call("tasks_status")
        told = json.loads(self.call("tasks_status", "--json")[0])["ended"]

        self.assertIn("Failed for good: 0 of the 1 that ended in the last hour", out)
        self.assertIn("Cancelled: 1 in the last hour, 1 in the last day.\n", out)
        self.assertEqual((told["failed_in_day"], told["cancelled_in_day"]), (0, 1))

    def test_nothing_is_told_too(self):
        out, _ = self.call("tasks_status")

        self.assertIn("No task waits or runs.", out)
        self.assertIn("No runner", out)

    def test_json_has_the_keys_that_are_promised(self):
        make_task()
        make_runner()

        told = json.loads(self.call("tasks_status", "--json")[0])

        self.assertEqual(
            list(told),
            [
                *("now", "counted_to", "queues", "paused", "runners", "running"),
                *("unregistered", "ended"),
            ],
        )
        (queue,) = told["queues"]
        self.assertIsNone(queue["queue"])
        self.assertEqual((queue["due"], queue["at_least"]), (1, []))
        self.assertGreater(queue["oldest_due_seconds"], 50)

    def test_json_has_the_queues_that_a_runner_serves_and_does_not(self):
        make_runner()
        Runner.objects.update(queues=["mail"], excluded_queues=["news", "old"])

        (runner,) = json.loads(self.call("tasks_status", "--json")[0])["runners"]

        self.assertEqual(runner["queues"], ["mail"])
        self.assertEqual(runner["excluded_queues"], ["news", "old"])


class HealthTests(CommandTestCase):
    def test_it_says_why_with_number_and_limit(self):
        due = timezone.now() - timedelta(seconds=740)
        make_task(KNOWN, queue="mail", run_at=due)
        make_runner()

        status, text = self.refused("tasks_health", "--max-age", "600")

        self.assertEqual(status, 1)
        self.assertRegex(
            text,
            r"^the oldest due task is 74\d s old, over --max-age 600, in queue mail$",
        )

    def test_it_says_where_also_of_what_is_in_no_queue(self):
        make_task(KNOWN)
        make_task(KNOWN)
        make_task(KNOWN, queue="mail")

        text = self.refused("tasks_health", "--max-backlog", "1")[1]

        self.assertEqual(
            text,
            "2 tasks in no queue are due, and no living runner serves them; "
            "1 task in queue mail is due, and no living runner serves it; "
            "2 tasks in no queue are due, over --max-backlog 1",
        )
        control.pause(control.NO_QUEUE, "ann")
        text = self.refused("tasks_health")[1]
        self.assertIn("; paused, and left out: tasks in no queue", text)

    def test_a_name_that_nobody_registers_is_no_health_after_a_minute(self):
        make_runner()
        make_task("shop.tasks.mail", queue="mail", run_at=timezone.now())

        self.assertIn("Well", self.call("tasks_health")[0])
        make_task("shop.tasks.mail", queue="mail")
        text = "1 due task is of a name that no tasks.py here registers: "
        _, why = self.refused("tasks_health")
        self.assertEqual(why, f"{text}shop.tasks.mail")
        self.assertIn(text, self.refused("tasks_health", "--queue", "mail")[1])
        self.assertIn("Well", self.call("tasks_health", "--queue", "news")[0])
        control.pause("mail", "ann")
        self.assertIn("Well", self.call("tasks_health")[0])

    def test_json_says_it_too(self):
        make_task(queue="mail")
        out, err = StringIO(), StringIO()
        with self.assertRaises(CommandError):
            call_command("tasks_health", "--json", stdout=out, stderr=err)

        told = json.loads(out.getvalue())
        self.assertFalse(told["healthy"])
        self.assertIn("no living runner serves it", told["why"][0])
        seen = told["due"], told["at_least"], told["runners"]
        self.assertEqual(seen, (1, False, 0))
        self.assertEqual(told["unregistered"], ["app.tasks.job"])

    def test_what_is_not_due_needs_nobody(self):
        make_task(run_at=timezone.now() + timedelta(hours=1))

        told, _ = self.call("tasks_health")
        status, why = self.refused("tasks_health", "--min-runners", "1")

        self.assertEqual(
            told, "Well: nothing is due, but no runner is up to take what comes\n"
        )
        self.assertEqual(status, 1)
        self.assertIn("runners that take tasks: 0, under --min-runners 1", why)

    def test_a_pause_of_all_is_told_plainly(self):
        make_task(KNOWN, queue="mail")
        control.pause(control.EVERY_QUEUE, "ann")

        said, _ = self.call("tasks_health")
        told = json.loads(self.call("tasks_health", "--json")[0])
        _, why = self.refused("tasks_health", "--min-runners", "1")

        self.assertRegex(
            said,
            r"^Well as far as can be told: nothing is begun; runners: 0; "
            r"everything is paused, by ann, since \d{4}-\S+ \S+\n$",
        )
        self.assertEqual(told["everything_paused"]["by"], "ann")
        self.assertIn("; everything is paused, by ann, since ", why)

    def test_runners_are_counted_by_what_they_serve(self):
        make_runner("a")
        Runner.objects.update(queues=["mail"], excluded_queues=[])
        make_runner("b", trusted_for=timedelta(seconds=-1))
        asked = "tasks_health", "--min-runners", "1"

        self.call(*asked)
        self.call(*asked, "--queue", "mail")
        _, why = self.refused(*asked, "--queue", "mail", "--queue", "news")

        self.assertEqual(
            why,
            "runners that take tasks: 0, under --min-runners 1, of queue news",
        )

    def test_more_than_is_counted_cannot_be_a_limit(self):
        status, text = self.refused("tasks_health", "--max-backlog", "20000")

        self.assertEqual(status, 2)
        self.assertIn("10000 is the most", text)


@skipIf(connection.vendor == "sqlite", "it waits for no server")
class ImpatienceTests(TransactionTestCase):
    def test_later_connections_of_the_process_have_the_limits_of_before(self):
        """As where a view calls it."""
        connection.close()
        before = copy.deepcopy(connection.settings_dict)

        with tasks_health._impatient():
            self.assertNotEqual(connection.settings_dict, before)

        self.assertEqual(connection.settings_dict, before)
        self.assertEqual(connection.execute_wrappers, [])


class RetryTests(CommandTestCase):
    def completed(self, **columns):
        row = make_completed()
        CompletedTask.objects.filter(pk=row.pk).update(**columns)
        return row

    def id_of_old(self):
        """Return the id of a task that is gone."""
        task = make_task()
        pk = task.pk
        task.delete()
        return pk

    def test_by_the_ids_in_the_log_or_of_the_rows(self):
        pk = self.id_of_old()
        self.completed(task_id=pk)
        other = self.completed(task_id=None)  # 1.2.8's

        by_id, _ = self.call("tasks_retry", pk)
        first = Task.objects.get()
        by_row, _ = self.call("tasks_retry", "--completed", other.pk)
        second = Task.objects.exclude(pk=first.pk).get()

        self.assertEqual(by_id, f"Task {pk} waits again.\nWaiting again: 1\n")
        self.assertEqual(first.pk, pk)
        self.assertIn("waits", self.call("task_log", pk)[1])
        self.assertIn(
            f"Completed row {other.pk} waits again as task {second.pk}.\n", by_row
        )
        self.assertFalse(CompletedTask.objects.exists())

    def test_it_says_of_each_id_why_it_was_not_retried(self):
        waiting = make_task()
        running = make_task(locked_by="r", locked_at=timezone.now())
        old = self.id_of_old()
        failed = self.completed(task_id=old)
        make_completed(failed=False)
        CompletedTask.objects.filter(failed_at=None).update(task_id=10**6 + 1)
        ids = waiting.pk, running.pk, 10**6 + 1, 10**6 + 2

        refused = self.refused("tasks_retry", old, *ids)
        now = self.refused("tasks_retry", "--waiting", waiting.pk, running.pk)

        self.assertFalse(CompletedTask.objects.filter(pk=failed.pk).exists())
        self.assertEqual(
            refused,
            (
                1,
                f"Task {waiting.pk} waits: tasks_retry --waiting {waiting.pk} has it "
                f"due now.\nTask {running.pk} runs.\nTask 1000001 has succeeded.\n"
                "There is no task 1000002.",
            ),
        )
        self.assertEqual(now, (1, f"Task {running.pk} runs."))
        rows = self.refused("tasks_retry", "--completed", failed.pk)
        self.assertIn(f"Completed row {failed.pk} has succeeded, or is gone", rows[1])

    def test_what_another_was_quicker_to_retry_is_told(self):
        pk = self.id_of_old()
        row = self.completed(task_id=pk)

        with somebody_else(
            lambda: control.retry([row.pk]),
            before=lambda sql: sql.startswith("UPDATE") or "FOR UPDATE" in sql,
        ):
            refused = self.refused("tasks_retry", pk)

        self.assertEqual(refused[0], 1)
        self.assertIn(f"Task {pk} waits: tasks_retry --waiting", refused[1])

    def test_an_id_that_no_row_can_have_is_of_none(self):
        for option in ((), ("--waiting",)):
            refused = self.refused("tasks_retry", *option, 10**20)
            self.assertEqual(refused, (1, f"There is no task {10**20}."))
        rows = self.refused("tasks_retry", "--completed", 10**20)
        self.assertIn("or is gone", rows[1])

    def test_by_filters_and_not_what_was_cancelled(self):
        self.completed(queue="mail")
        self.completed(queue="news")
        self.completed(queue="mail", last_error="Cancelled by ann")
        hours_ago = timezone.now() - timedelta(hours=3)
        self.completed(queue="mail", failed_at=hours_ago)
        asked = "tasks_retry", "--queue", "mail", "--failed-since", "2h"

        dry, _ = self.call(*asked, "--dry-run")
        self.assertFalse(Task.objects.exists())
        wet, _ = self.call(*asked)

        self.assertEqual(dry, "Would wait again: 1\n")
        self.assertTrue(wet.endswith("\nWaiting again: 1\n"))
        self.assertIn("\nWaiting again: 2\n", self.call("tasks_retry", "--all")[0])

    def test_what_waits_for_its_next_try_is_due_now(self):
        later = timezone.now() + timedelta(hours=1)
        again = make_task(attempts=2, run_at=later)
        new = make_task(run_at=later)

        self.call("tasks_retry", "--waiting", "--all")

        again.refresh_from_db()
        new.refresh_from_db()
        self.assertLess(again.run_at, later)
        self.assertEqual(new.run_at, later)

    def test_too_little_or_too_much_is_refused(self):
        for arguments in (
            (),
            (1, "--all"),
            (1, "--queue", "mail"),
            ("--waiting", "--failed-since", "1h"),
        ):
            with self.subTest(arguments):
                self.assertEqual(self.refused("tasks_retry", *arguments)[0], 2)


class CancelTests(CommandTestCase):
    def test_what_waits_is_cancelled_and_what_runs_is_stopped_if_asked(self):
        waiting = make_task(queue="mail")
        running = make_task(queue="mail", locked_by="r", locked_at=timezone.now())
        both = waiting.pk, running.pk

        out, err = StringIO(), StringIO()
        with self.assertRaises(CommandError) as left:
            call_command("tasks_cancel", *both, 10**6, by="ann", stdout=out, stderr=err)
        self.assertEqual(out.getvalue(), "Cancelled: 1\n")
        self.assertEqual(left.exception.returncode, 1)
        self.assertEqual(
            str(left.exception),
            f"Task {running.pk} runs: tasks_cancel --running {running.pk} stops it.\n"
            "There is no task 1000000.",
        )
        out, err = self.call("tasks_cancel", "--queue", "mail")
        self.assertEqual(out, "Cancelled: 0\n")
        self.assertIn("Left alone, since they run: 1", err)
        self.assertFalse(Control.objects.exists())
        out, _ = self.call(
            "tasks_cancel", "--running", "--queue", "mail", "--by", "bob"
        )

        self.assertEqual(out, "Cancelled: 0\nAsked to stop: 1\n")
        self.assertEqual(CompletedTask.objects.get().last_error, "Cancelled by ann")
        asked = Control.objects.get()
        self.assertEqual((asked.verb, asked.by), ("stop", "bob"))

    def test_what_can_not_be_asked_to_stop_is_told(self):
        old = make_task(locked_by="4711", locked_at=timezone.now())
        running = make_task(locked_by="r", locked_at=timezone.now())
        why = (
            f"Task {old.with_id()} is run by process 4711, an in-process runner or one "
            "of 1.2.8, which can't be asked."
        )

        for option in ((), ("--running",)):
            self.assertEqual(self.refused("tasks_cancel", *option, old.pk), (1, why))
        self.assertFalse(Control.objects.exists())
        for option in ((), ("--dry-run",)):
            out, err = self.call("tasks_cancel", "--running", "--all", *option)
            self.assertIn("sked to stop: 1\n", out)
            self.assertIn("by 1.2.8, where nobody can be asked: 1.", err)
            self.assertNotIn("--running stops them", err)
        self.assertEqual(Control.objects.get().target, str(running.pk))

    def test_an_id_that_no_row_can_have_is_of_none(self):
        refused = self.refused("tasks_cancel", 10**20)

        self.assertEqual(refused, (1, f"There is no task {10**20}."))

    def test_one_that_was_cancelled_or_failed_is_told_apart(self):
        pk = make_task().pk
        self.call("tasks_cancel", pk, "--by", "ann")

        again = f"Task {pk} has been cancelled already: Cancelled by ann."
        self.assertEqual(self.refused("tasks_cancel", pk), (1, again))
        retried = f"Task {pk} has been cancelled: leave out --waiting."
        self.assertEqual(self.refused("tasks_retry", "--waiting", pk), (1, retried))
        CompletedTask.objects.update(last_error="ValueError: no")
        failed = f"Task {pk} has failed for good."
        self.assertEqual(self.refused("tasks_cancel", pk), (1, failed))

    def test_a_dry_run_and_refusals(self):
        task = make_task()

        self.call("tasks_cancel", "--all", "--dry-run")

        self.assertTrue(Task.objects.exists())
        self.assertEqual(self.refused("tasks_cancel")[0], 2)
        self.assertEqual(self.refused("tasks_cancel", task.pk, "--all")[0], 2)
        self.assertEqual(self.refused("tasks_cancel", 10**6)[0], 1)


NOBODY = (
    "No task is or was in queue {}, and no runner and no task of this project names it."
)


class DoubtTests(CommandTestCase):
    def test_a_queue_that_nobody_knows_is_told(self):
        make_task(queue="mail")
        control.cancel([make_task(queue="bills").pk], "ann")
        make_runner()
        Runner.objects.update(queues=["night"])
        make_task(KNOWN, run_at=timezone.now() + timedelta(hours=1))

        for arguments in (
            ("tasks_health", "--queue", "mial", "--queue", "slow"),
            ("tasks_cancel", "--queue", "mial"),
            ("tasks_retry", "--queue", "mial"),
            ("tasks_prune", "--older-than", "1d", "--queue", "mial"),
        ):
            err = self.call(*arguments)[1]
            self.assertEqual(err, f"{NOBODY.format('mial')} Did you mean 'mail'?\n")
        for queue in ("bills", "night", "slow"):  # the last one is a function's
            self.assertEqual(self.call("tasks_cancel", "--queue", queue)[1], "")
        err = self.call("tasks_cancel", "--queue", "x")[1]
        self.assertEqual(err, f"{NOBODY.format('x')}\n")

    def test_a_name_that_nobody_knows_is_told(self):
        make_task("shop.tasks.mail")
        text = "No task is or was called {}, and no tasks.py here registers it."

        for verb in "tasks_cancel", "tasks_retry":
            err = self.call(verb, "--name", "note")[1]
            self.assertEqual(err, f"{text.format('note')} Did you mean '{KNOWN}'?\n")
            self.assertEqual(self.call(verb, "--name", KNOWN)[1], "")
            self.assertEqual(self.call(verb, "--name", "shop.tasks.mail")[1], "")

    def test_looking_for_a_queue_reads_no_table(self):
        make_task(queue="mail")
        with CaptureQueriesContext(connection) as few:
            inuse.doubts(["mial"], ["note"])
        for _ in range(20):
            make_task(queue="mail")
            make_completed()
        with CaptureQueriesContext(connection) as many:
            inuse.doubts(["mial"], ["note"])

        self.assertEqual(len(many), len(few))


class PauseTests(CommandTestCase):
    def test_queues_are_paused_and_resumed(self):
        make_task(queue="mail")

        self.assertEqual(self.call("tasks_pause", "mail"), ("Paused: queue mail\n", ""))
        out, err = self.call("tasks_pause", "mial", "--all", "--no-queue")
        self.assertIn("Paused: everything\n", out)
        self.assertEqual(err, f"{NOBODY.format('mial')} Did you mean 'mail'?\n")
        out, err = self.call("tasks_resume", "mail", "--all")
        self.assertIn("Resumed: queue mail\n", out)
        self.assertEqual(err, "Still paused: tasks in no queue, queue mial\n")

        self.assertEqual(
            self.refused("tasks_resume", "mail"), (1, "Not paused: queue mail")
        )
        for name in "tasks_pause", "tasks_resume":
            self.assertEqual(self.refused(name)[0], 2)


class PruneTests(CommandTestCase):
    def test_what_is_older_is_removed_with_its_tries(self):
        for days, failed in ((1, False), (10, False), (10, True), (100, True)):
            row = make_completed(ago=timedelta(days=days), failed=failed)
            row.task_id = row.pk
            row.save()
            Attempt.objects.create(
                task_id=row.pk,
                task_name="a",
                number=1,
                outcome="Failed",
                ended_at=row.run_at,
            )
        asked = "tasks_prune", "--older-than", "7d", "--failed-older-than", "90d"

        dry, _ = self.call(*asked, "--dry-run")
        self.assertEqual(CompletedTask.objects.count(), 4)
        wet, _ = self.call(*asked, "--batch", 1)

        self.assertEqual(
            dry,
            "Would be removed, of what succeeded: 1\n"
            "Would be removed, of what failed: 1\n",
        )
        self.assertEqual(
            wet,
            "Removed, of what succeeded: 1, and 1 tries\n"
            "Removed, of what failed: 1, and 1 tries\n",
        )
        self.assertEqual(CompletedTask.objects.count(), 2)
        self.assertEqual(Attempt.objects.count(), 2)

    def test_the_setting_says_it_where_nothing_else_does(self):
        make_completed(ago=timedelta(days=10))
        make_completed(ago=timedelta(days=10), failed=False)
        self.assertEqual(self.refused("tasks_prune")[0], 2)
        with self.settings(BACKGROUND_TASK_KEEP_COMPLETED={"failed": 5}):
            out, _ = self.call("tasks_prune")

        self.assertEqual(out, "Removed, of what failed: 1, and 0 tries\n")

    def test_one_queue_only_and_no_batch_of_nothing(self):
        make_completed(ago=timedelta(days=10))

        self.call("tasks_prune", "--older-than", "1d", "--queue", "mail")

        self.assertTrue(CompletedTask.objects.exists())
        for wrong in (0, 10_001, 10**20):
            refused = self.refused(
                "tasks_prune", "--older-than", "1d", "--batch", wrong
            )
            said = f"--batch is {wrong}: it must be 1 to 10000"
            self.assertEqual(refused, (2, said))


class DrainTests(CommandTestCase):
    def test_runners_are_named_by_how_their_ids_begin(self):
        make_runner("abc1")
        make_runner("abd2")

        self.assertIn("abc1 (a-host 4711)", self.call("tasks_drain", "abc")[0])
        self.assertEqual(Control.objects.get().target, "abc1")
        status, text = self.refused("tasks_drain", "ab")
        self.assertEqual(status, 1)
        self.assertIn("2 runners have an id that begins with ab", text)
        self.call("tasks_drain", "--host", "a-host")
        self.assertEqual(Control.objects.count(), 2)
        with somebody_else(
            Runner.objects.filter(pk="abc1").delete,
            before=lambda sql: ' AS "a" FROM' in sql or " AS `a` FROM" in sql,
        ):
            gone = self.refused("tasks_drain", "abc")
        self.assertEqual(gone, (1, "Gone meanwhile: abc1 (a-host 4711)"))
        self.assertEqual(self.refused("tasks_drain", "--host", "x")[0], 1)
        self.assertEqual(self.refused("tasks_drain")[0], 2)
        Runner.objects.all().delete()
        nobody = 1, "No runner is up: see tasks_status."
        self.assertEqual(self.refused("tasks_drain", "--all"), nobody)


class LogTests(CommandTestCase):
    def test_what_a_try_has_printed(self):
        row = make_completed()
        CompletedTask.objects.filter(pk=row.pk).update(task_id=7)
        for number, outcome in ((1, "Failed"), (2, "Succeeded")):
            Attempt.objects.create(
                task_id=7,
                task_name="a",
                number=number,
                outcome=outcome,
                ended_at=timezone.now(),
                output=f"try {number}\n",
            )

        self.assertEqual(self.call("task_log", 7)[0], "try 2\n")
        self.assertEqual(self.call("task_log", 7, "--follow")[0], "try 2\n")
        out, err = self.call("task_log", 7, "--attempt", 1)
        self.assertEqual(out, "try 1\n")
        self.assertIn("Try 1 failed at", err)
        self.assertIn(
            "those recorded: 1, 2", self.refused("task_log", 7, "--attempt", 3)[1]
        )
        self.assertEqual(self.refused("task_log", 8)[0], 1)

    def test_tries_of_the_same_number_are_all_reached(self):
        task = make_task(KNOWN)
        for number, text in ((1, "a"), (2, "b"), (1, "c")):
            Attempt.objects.create(
                task_id=task.pk,
                task_name=KNOWN,
                number=number,
                outcome="Failed",
                ended_at=timezone.now(),
                output=text,
            )

        log = "task_log", task.pk, "--attempt"
        told = {n: self.call(*log, n)[0] for n in (1, 2, -1, -2, -3)}
        remark = self.call(*log, 1)[1]

        self.assertEqual(told, {1: "c", 2: "b", -1: "c", -2: "b", -3: "a"})
        self.assertIn("It was retried: other tries 1 are --attempt -3.", remark)
        self.assertNotIn("retried", self.call(*log, 2)[1])
        for n in (0, 3, -4):
            self.assertEqual(self.refused(*log, n)[0], 1)

    def test_one_that_waits_and_one_that_nobody_recorded(self):
        task = make_task()
        row = make_completed()
        CompletedTask.objects.filter(pk=row.pk).update(task_id=10**6)

        waits = self.call("task_log", task.pk)[1]
        self.assertIn("waits: it has been due since", waits)
        self.assertIn("No tasks.py here registers app.tasks.job: no runner", waits)
        known = self.call("task_log", make_task(KNOWN).pk)[1]
        self.assertNotIn("registers", known)
        self.assertIn("no try of it is", self.refused("task_log", 10**6)[1])

    def test_one_that_was_cancelled_says_so(self):
        waits, tried = make_task(), make_task(attempts=1)
        Attempt.objects.create(
            task_id=tried.pk,
            task_name=tried.task_name,
            number=1,
            outcome="Lost",
            error="its runner died",
            ended_at=timezone.now(),
        )
        control.cancel([waits.pk, tried.pk], "ann")

        never = self.refused("task_log", waits.pk)[1]
        once = self.call("task_log", tried.pk)[1]

        self.assertIn("before it was ever tried: Cancelled by ann", never)
        self.assertIn("Try 1 lost", once)
        self.assertIn(f"Task {tried.pk} has ended: Cancelled by ann", once)


class ShownTests(TestCase):
    """Each text is the head and the tail of what was printed, with its size."""

    def test_only_what_is_new_is_shown(self):
        shown = task_log.Shown()

        self.assertEqual(shown.news("a\n", 2), "a\n")
        self.assertEqual(shown.news("a\n", 2), "")
        self.assertEqual(shown.news("a\na\n", 4), "a\n")
        self.assertEqual(shown.news("a\n", 2), "")
        self.assertEqual(shown.rest("a\na\nb\n", 6), "b\n")

    def test_a_character_is_shown_when_all_of_it_is_there(self):
        shown = task_log.Shown()

        self.assertEqual(shown.news("caf\N{REPLACEMENT CHARACTER}", 4), "caf")
        self.assertEqual(shown.news("café", 5), "é")

    def test_what_is_in_the_gap_is_not_shown_twice(self):
        shown = task_log.Shown()

        shown.news("head" + "x" * 6, 10)
        self.assertEqual(shown.news("head\n[... 2 bytes ...]\nabcdef", 12), "ef")
        self.assertEqual(
            shown.news("head\n[... 96 bytes ...]\nuvwxyz", 106),
            "\n[... 88 bytes ...]\nuvwxyz",
        )


class TextTests(TestCase):
    def test_ages_have_two_units(self):
        for seconds, text in (
            (None, "-"),
            (0, "0s"),
            (59.9, "59s"),
            (60, "1m"),
            (740, "12m20s"),
            (3600, "1h"),
            (11040, "3h4m"),
            (86400 * 9 + 3700, "9d1h"),
        ):
            self.assertEqual(_family.age(seconds), text)

    def test_times(self):
        for text, seconds in (
            ("90", 90),
            ("15m", 900),
            ("1.5h", 5400),
            ("7d", 7 * 86400),
            ("1W", 7 * 86400),
        ):
            self.assertEqual(_family.duration(text).total_seconds(), seconds)
        for text in ("", "soon", "-1h", "1y", "1e9d"):
            with self.assertRaises(Exception, msg=text) as caught:
                _family.duration(text)
            self.assertIn("is no time", str(caught.exception))
        for text in ("36501d", "200000w", "9" * 30 + "d", "9" * 5000):
            with self.assertRaises(Exception, msg=text) as caught:
                _family.duration(text)
            self.assertIn("is too long: 36500d is the most", str(caught.exception))

    def test_the_longest_time_is_taken(self):
        for asked in (
            ("tasks_prune", "--older-than"),
            ("tasks_retry", "--failed-since"),
        ):
            out, err = StringIO(), StringIO()
            call_command(*asked, "36500d", stdout=out, stderr=err)
            self.assertIn(": 0", out.getvalue())
