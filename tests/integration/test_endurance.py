"""Very many tasks through one supervisor: none lost, none twice, no memory gathered."""

import os
import time
from collections import Counter

import psutil
import pytest

from background_task.models import CompletedTask, Task
from background_task.supervisor import memory

from .tools import FAST, QUIET, LifecycleTestCase, supervised, wait_until

TASKS = int(os.environ.get("SOAK_TASKS", "100000"))
LOOKS = 10  # at what the processes hold, evenly spread
MORE = 2 << 20  # bytes that one may hold more at the last look than at the second
MIB = 1 << 20
PROCESSES = ("supervisor", "bookkeeper", "launcher")


def held(runner):
    """Return the bytes of anonymous memory of each lasting process."""
    found = {}
    for process in runner.processes():
        try:
            title = " ".join(process.cmdline())
            for name in PROCESSES:
                if title.startswith("background_task: ") and f" {name}" in title:
                    found[name] = memory.of_process(process.pid)
        except psutil.Error:
            continue  # a task's, and gone
    return found


class EnduranceTests(LifecycleTestCase):
    def enqueue(self, count):
        name, journal = "tests.app.misbehaving.tick", str(self.journal)
        new = Task.objects.new_task
        rows = (new(name, (journal, number), {}) for number in range(count))
        Task.objects.bulk_create(rows, batch_size=5000)

    @pytest.mark.soak
    @pytest.mark.postgresql
    @pytest.mark.timeout(3600)
    def test_soak(self):
        self.enqueue(TASKS)
        looks = []
        with supervised("--workers", 8, settings=QUIET, environment=FAST) as runner:
            wait_until(lambda: CompletedTask.objects.exists())
            began = time.monotonic()
            for number in range(1, LOOKS + 1):
                wanted = TASKS * number // LOOKS
                wait_until(
                    lambda n=wanted: CompletedTask.objects.count() >= n, 3000, "an end"
                )
                looks.append(held(runner))
            took = time.monotonic() - began
        ticks = Counter(self.journal.path.read_text().split())

        print(f"\nsoak: {TASKS} no-op tasks in {took:.0f} s ({TASKS / took:.0f}/s)")
        print(f"succeeded {CompletedTask.objects.succeeded().count()}", end=", ")
        twice = len(ticks - Counter(set(ticks)))
        print(f"left {Task.objects.count()}, run twice {twice}")
        for name in PROCESSES:
            sizes = ", ".join(f"{look[name] / MIB:.1f}" for look in looks)
            print(f"{name}: MiB after each tenth: {sizes}")
        self.assertEqual(ticks, Counter(map(str, range(TASKS))))
        self.assertEqual(CompletedTask.objects.succeeded().count(), TASKS)
        self.assertEqual(Task.objects.count(), 0)
        for name in PROCESSES:
            self.assertLess(looks[-1][name] - looks[1][name], MORE, name)
