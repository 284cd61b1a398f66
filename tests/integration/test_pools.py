"""Queues with slots of their own, and queues that are left alone."""

import os
import signal

import psutil
import pytest

from background_task.models import CompletedTask, Task
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    completed,
    refused,
    row,
    run_until_empty,
    stop,
    supervised,
    wait_until,
)


class PoolTestCase(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.gate = self.folder / "gate"

    def put_long(self, queue, n):
        """Enqueue tasks that wait for the gate."""
        journal, gate = str(self.journal), str(self.gate)
        return [
            misbehaving.wait_for(journal, f"{queue} long {i}", gate, queue=queue)
            for i in range(n)
        ]

    def put_short(self, queue, n, seconds=0.0):
        journal = str(self.journal)
        return [
            misbehaving.work(journal, f"{queue} {i}", seconds, queue=queue)
            for i in range(n)
        ]

    def of(self, queue, labels):
        return [label for label in labels if label.startswith(f"{queue} ")]

    def most_at_once(self, queue):
        """Return how many tasks of a queue were between their begin and their end."""
        most = running = 0
        for event, _, _, label in sorted(self.journal.entries(), key=lambda e: e[2]):
            if label.startswith(f"{queue} "):
                running += 1 if event == "begin" else -1
            most = max(most, running)
        return most

    def held(self, queue):
        return Task.objects.filter(queue=queue, locked_by__isnull=False).count()


@pytest.mark.lifecycle
class SizedQueueTests(PoolTestCase):
    def test_a_flood_of_long_tasks_leaves_the_slots_of_others_alone(self):
        for _ in range(2):  # twice, since the second time all have been busy
            self.put_long("mail", 10)
            self.put_short("default", 15)
        with supervised("--queue", "mail:2", "--queue", "default:3") as runner:
            wait_until(lambda: len(self.of("default", self.journal.ended())) == 30)

            self.assertIn("queues: mail:2, default:3; 5 workers", runner.output)
            self.assertEqual(len(self.of("mail", self.journal.begun())), 2)
            self.assertEqual(self.held("mail"), 2)
            self.assertEqual(row(self.put_long("other", 1)[0]).locked_by, None)
            late = self.put_short("default", 1, 0.1)[0]
            completed(late)
            self.gate.touch()
            wait_until(lambda: len(self.of("mail", self.journal.ended())) == 20)
            self.assertEqual(stop(runner), 0)

        self.assertEqual(self.most_at_once("mail"), 2)
        self.assertLessEqual(self.most_at_once("default"), 3)
        self.assertEqual(self.of("other", self.journal.begun()), [])

    def test_what_shares_the_rest_takes_no_sized_slot(self):
        self.put_long("a", 10)
        self.put_short("b", 3)
        options = ("--queue=mail:1", "--queue=a", "--queue=b", "--workers=3")
        with supervised(*options) as runner:
            wait_until(lambda: len(self.of("a", self.journal.begun())) == 2)
            for number in range(5):  # one after the other: each needs the slot again
                completed(
                    misbehaving.work(str(self.journal), f"mail {number}", queue="mail")
                )
            self.assertEqual(len(self.of("a", self.journal.begun())), 2)
            self.gate.touch()
            wait_until(lambda: CompletedTask.objects.count() == 18)
            self.assertEqual(stop(runner), 0)

        shared = max(self.most_at_once("a"), self.most_at_once("b"))
        self.assertEqual((self.most_at_once("mail"), shared), (1, 2))

    def test_a_killed_bookkeeper_changes_no_limit(self):
        self.put_short("mail", 30, 0.05)
        self.put_short("default", 60, 0.02)
        options = ("--queue=mail:2", "--queue=default", "--workers=4")
        with supervised(*options, "--until-empty") as runner:
            for share in (10, 30, 50):
                wait_until(lambda n=share: len(self.journal.ended()) >= n)
                kill_bookkeeper(runner)
            self.assertEqual(runner.ended(), 0, runner.output)

        self.assertEqual(CompletedTask.objects.filter(failed_at=None).count(), 90)
        self.assertLessEqual(self.most_at_once("mail"), 2)
        self.assertLessEqual(self.most_at_once("default"), 2)

    def test_until_empty_waits_for_what_a_full_pool_has_kept_waiting(self):
        self.put_short("mail", 8, 0.05)

        run_until_empty("--queue=mail:1", "--queue=default:2")

        self.assertEqual(len(self.journal.ended()), 8)
        self.assertEqual(self.most_at_once("mail"), 1)

    def test_a_process_that_is_reused_serves_any_pool(self):
        self.put_short("mail", 20)
        self.put_short("default", 40)

        run_until_empty("--queue=mail:1", "--queue=default:1", "--tasks-per-process=50")

        self.assertEqual(len(self.journal.ended()), 60)
        self.assertEqual(self.most_at_once("mail"), 1)
        self.assertEqual(self.most_at_once("default"), 1)

    def test_a_name_may_have_a_colon(self):
        for queue in ("mail:2", "mail:urgent", "mail"):
            misbehaving.work(str(self.journal), queue, queue=queue)

        output = run_until_empty("--queue=mail:2:1", "--queue=mail:urgent")

        self.assertIn("queues: mail:2:1, mail:urgent; 2 workers", output)
        self.assertEqual(sorted(self.journal.ended()), ["mail:2", "mail:urgent"])

    def test_the_settings_say_it_too_until_an_option_does(self):
        self.put_short("mail", 1)
        self.put_short("reports", 1)
        settings = {"BACKGROUND_TASK_QUEUES": ["mail:2", "nosuch"]}

        output = run_until_empty(settings=settings)
        self.assertIn("queues: mail:2, nosuch; 3 workers", output)
        self.assertEqual(self.journal.ended(), ["mail 0"])

        settings = {"BACKGROUND_TASK_EXCLUDE_QUEUES": ["reports"]}
        self.assertIn("every queue but reports", run_until_empty(settings=settings))
        self.assertEqual(self.journal.ended(), ["mail 0"])
        run_until_empty("--queue=reports", settings=settings)
        self.assertEqual(self.journal.ended(), ["mail 0", "reports 0"])

    def test_slots_that_nobody_can_use_are_told_of(self):
        output = run_until_empty("--queue=mail:2", "--workers=8")

        self.assertIn("--workers is 8, and no queue is served that could", output)
        self.assertIn("queues: mail:2; 2 workers", output)

    def test_more_slots_than_workers_are_refused(self):
        output = refused("--queue=mail:2", "--queue=default:6", "--workers=7", status=2)

        self.assertIn("--workers is 7, and the queues' own slots are 8", output)


@pytest.mark.lifecycle
class ExcludedQueueTests(PoolTestCase):
    def test_every_queue_but_these_and_what_has_no_queue(self):
        for way in ("--workers=2", "--in-process"):
            with self.subTest(way):
                self.journal.clear()
                queued = {
                    queue: misbehaving.work(str(self.journal), str(queue), queue=queue)
                    for queue in ("a", "b", "c", None)
                }

                output = run_until_empty(
                    way,
                    "--exclude-queue=a",
                    "--exclude-queue=b",
                    "--exclude-queue=nosuch",
                )

                self.assertEqual(sorted(self.journal.ended()), ["None", "c"])
                for queue in ("a", "b"):
                    self.assertIsNone(row(queued[queue]).locked_by)
                self.assertIn("and none is in it: nosuch.", output)
                if way != "--in-process":
                    self.assertIn("every queue but a, b, nosuch; 2 workers", output)
                Task.objects.all().delete()

    def test_a_flood_of_it_keeps_nothing_waiting_and_nobody_busy(self):
        self.put_short("a", 700)
        with supervised("--exclude-queue=a", "--workers=2", "--sleep=60") as runner:
            wait_until(runner.is_up)
            completed(self.put_short("b", 1)[0])
            completed(misbehaving.work(str(self.journal), "of none"))
            self.assertEqual(stop(runner), 0)

        self.assertEqual(sorted(self.journal.ended()), ["b 0", "of none"])


def kill_bookkeeper(runner):
    """Kill it, and wait until there is another one."""
    former = bookkeeper(runner)
    os.kill(former.pid, signal.SIGKILL)
    wait_until(lambda: (now := bookkeeper(runner)) and now.pid != former.pid)


def bookkeeper(runner):
    for process in runner.processes():
        try:
            if " ".join(process.cmdline()).startswith("background_task: bookkeeper"):
                return process
        except psutil.Error:
            continue
    return None
