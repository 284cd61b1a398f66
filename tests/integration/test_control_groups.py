"""A container that is really full: a control group of the kernel's, not a folder.

Version 1 alone, and root alone: elsewhere `supervisor/test_container.py` stands for it.
"""

import contextlib
import uuid
from pathlib import Path

import pytest

from background_task.models import Attempt
from tests.app import misbehaving

from .tools import LifecycleTestCase, completed, note, supervised, wait_until

MIB = 1024 * 1024
LIMIT = 500  # MiB
ONCE = {"BACKGROUND_TASK_MAX_ATTEMPTS": 1}


@contextlib.contextmanager
def control_group(mib):
    """Have a group in this process's own that may hold so much; skip without one."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    by_controller = dict(line.split(":", 2)[1:] for line in lines)
    if "memory" not in by_controller:
        pytest.skip("this system has no memory controller of control groups v1")
    own = Path("/sys/fs/cgroup/memory", by_controller["memory"].lstrip("/"))
    group = own / f"background-task-{uuid.uuid4().hex}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(mib * MIB))
        yield group
    finally:
        wait_until(
            lambda: not (group / "cgroup.procs").read_text(), what="nobody in it"
        )
        group.rmdir()


def joining(group):
    """Return the command that runs another one in a group."""
    return "sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"


class FullContainerTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_the_largest_task_is_stopped_before_the_kernel_kills(self):
        greedy = misbehaving.fill_the_container()
        modest = misbehaving.wait_for(
            str(self.journal), "modest", str(self.folder / "go on")
        )

        with (
            control_group(LIMIT) as group,
            supervised("--workers", 2, settings=ONCE, prefix=joining(group)) as runner,
        ):
            stopped = wait_until(lambda: Attempt.objects.filter(outcome="OutOfMemory"))
            (self.folder / "go on").touch()
            completed(modest)
            events = (group / "memory.oom_control").read_text()
            self.assertIsNone(runner.process.poll())

        self.assertEqual(stopped.get().task_id, greedy.pk)
        self.assertIn("the container's memory limit", completed(greedy).last_error)
        self.assertIn(f"{LIMIT} MiB", completed(greedy).last_error)
        self.assertIn("oom_kill 0", events)
        note(f"fills a container of {LIMIT} MiB", completed(greedy))

    @pytest.mark.lifecycle
    def test_who_was_quicker_is_told_truly_and_the_supervisor_lives(self):
        greedy = misbehaving.hold_memory(3 * LIMIT)
        modest = misbehaving.work(str(self.journal), "modest")

        with (
            control_group(LIMIT) as group,
            supervised("--until-empty", settings=ONCE, prefix=joining(group)) as runner,
        ):
            self.assertEqual(runner.ended(), 0, runner.output)
            self.assertNotIn("replaced", runner.output)  # none of its own was struck
            events = (group / "memory.oom_control").read_text()

        error = completed(greedy).last_error
        if "the container's memory limit" not in error:  # the guard came too late
            self.assertIn("the kernel has killed for want of memory", error)
            self.assertRegex(events, "oom_kill [1-9]")  # one or more
        self.assertEqual(completed(modest).attempts, 1)
        note(
            f"takes {3 * LIMIT} MiB at once in a container of {LIMIT}",
            completed(greedy),
        )
