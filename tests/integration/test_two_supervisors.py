"""Several supervisors on one database: every task once, whoever dies."""

import time
from collections import Counter

import pytest

from background_task.models import CompletedTask, Runner, Task
from tests.app import misbehaving

from .tools import (
    FAST,
    LifecycleTestCase,
    make_due,
    row,
    run_until_empty,
    stop,
    supervised,
    wait_until,
)


def label(number):
    return f"task {number}"


class TwoSupervisorsTests(LifecycleTestCase):
    def enqueue(self, count, long=()):
        """Enqueue tasks of 10 to 50 ms that beat in the journal; a few are `long`.

        A process starts for longer than most tasks run: only a long one is sure to be
        caught in the middle.
        """
        rows = [
            Task.objects.new_task(
                "tests.app.misbehaving.beat",
                (
                    str(self.journal),
                    label(number),
                    600 if number in long else 2 + number % 9,
                ),
                {},
            )
            for number in range(count)
        ]
        Task.objects.bulk_create(rows)

    def done(self):
        return CompletedTask.objects.count()

    def assert_each_was_done_once(self, count):
        self.assertEqual(CompletedTask.objects.succeeded().count(), count)
        self.assertEqual(CompletedTask.objects.count(), count)
        hashes = CompletedTask.objects.values_list("task_hash", flat=True)
        self.assertEqual(len(set(hashes)), count)
        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(
            set(Counter(self.journal.ended())), set(map(label, range(count)))
        )
        self.assertEqual(self.journal.overlaps(), [])

    @pytest.mark.lifecycle
    def test_two_at_work_share_the_tasks(self):
        self.assertIs(misbehaving.beat.task_function, misbehaving.beat.now)
        with supervised("--workers", 2) as one, supervised("--workers", 2) as other:
            wait_until(lambda: Runner.objects.count() == 2)
            # Long ones: while they run nobody claims ahead, and one runner has no slot
            # for all of them.
            self.enqueue(20, long=range(4))
            wait_until(lambda: self.done() == 20, 100)
            outputs = [one.output, other.output]
            statuses = [stop(one), stop(other)]

        self.assert_each_was_done_once(20)
        self.assertEqual(len(self.journal.ended()), 20)
        ran = [output.count("INFO Running") for output in outputs]
        self.assertEqual(sum(ran), 20)
        self.assertTrue(all(ran), ran)
        self.assertEqual(statuses, [0, 0])
        self.assertEqual(Runner.objects.count(), 0)

    @pytest.mark.lifecycle
    def test_what_a_dead_one_held_is_rescued_before_nothing_is_said_to_be_due(self):
        with supervised("--workers", 1) as killed:
            task = misbehaving.work(str(self.journal), "held", 600)
            self.journal.pid_of("held")
            killed.kill()
            output = run_until_empty()

        rescued = row(task)
        self.assertEqual((rescued.attempts, rescued.locked_by), (1, None), output)
        self.assertRegex(rescued.last_error, "^Lost: its runner died")
        self.assertEqual(Runner.objects.count(), 0)

    @pytest.mark.postgresql
    @pytest.mark.timeout(400)
    def test_one_is_killed_after_a_third_of_300(self):
        self.kill_one_after_a_third_of(300)

    @pytest.mark.soak
    @pytest.mark.postgresql
    @pytest.mark.timeout(3600)
    def test_soak(self):
        began = time.monotonic()

        lost = self.kill_one_after_a_third_of(2000)

        took = time.monotonic() - began
        begun = len(self.journal.begun())
        failed = CompletedTask.objects.failed().count()
        print(
            f"\nsoak: {begun} tries of 2000 tasks under two supervisors in "
            f"{took:.0f} s ({2000 / took:.1f} tasks/s); one was SIGKILLed after "
            f"{self.killed_at} tasks, {lost} tries were lost with it; completed "
            f"{self.done()}, failed {failed}, left {Task.objects.count()}, "
            f"overlapping tries {len(self.journal.overlaps())}"
        )

    def runs_one_of(self, runner, long):
        """Is this runner in the middle of one of these?"""
        long, pids = set(map(label, long)), {}
        for event, pid, _, one in self.journal.entries():
            if one in long and event == "begin":
                pids[one] = pid
            elif event == "end":
                pids.pop(one, None)
        return set(pids.values()) & {process.pid for process in runner.processes()}

    def kill_one_after_a_third_of(self, count):
        """Return how many tries were lost by it."""
        long = range(0, count, 20)
        self.enqueue(count, long)
        lost = set()
        one = supervised("--workers", 4, environment=FAST)
        another = supervised("--workers", 4, environment=FAST)

        with one as killed, another as other:
            wait_until(lambda: self.done() >= count // 3, count)
            self.journal.entries()  # all that is behind us, before we are in a hurry
            wait_until(lambda: self.runs_one_of(killed, long), 100)
            killed.kill()
            self.killed_at = self.done()

            def all_done():
                rows = Task.objects.filter(locked_by=None, attempts__gt=0)
                for task in rows:
                    self.assertRegex(task.last_error, "^Lost: its runner died")
                    lost.add(task.pk)
                make_due(*rows)
                return self.done() >= count

            wait_until(all_done, count)
            wait_until(killed.is_gone)
            status = stop(other)

        self.assert_each_was_done_once(count)
        self.assertEqual(status, 0)
        self.assertEqual(Runner.objects.count(), 0)
        self.assertGreater(len(self.journal.begun()), count)
        tried_twice = CompletedTask.objects.filter(attempts=2).count()
        self.assertEqual(tried_twice, len(lost))
        return len(lost)
