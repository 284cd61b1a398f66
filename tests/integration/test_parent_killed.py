"""A supervisor that is killed, and who takes over what it held."""

import subprocess
import uuid
from datetime import timedelta

import psutil
import pytest
from django.utils import timezone

from background_task.models import Runner, Task
from background_task.supervisor import processes
from tests.app import misbehaving

from .tools import (
    LifecycleTestCase,
    attempted,
    completed,
    is_alive,
    is_held,
    note,
    row,
    run_until_empty,
    stop,
    supervised,
    title_of,
    wait_until,
)


class ParentKilledTests(LifecycleTestCase):
    def grandchild_of(self, label):
        self.journal.pid_of(label)
        text = f"grandchild of {label} "

        def told():
            return [one for one in self.journal.begun() if one.startswith(text)]

        return int(wait_until(told)[0].removeprefix(text))

    @pytest.mark.lifecycle
    def test_all_it_had_is_gone_and_a_neighbour_takes_over_before_the_lease_ends(self):
        task = misbehaving.leave_behind(str(self.journal), "running", 600)

        with supervised(settings={"BACKGROUND_TASK_LEASE": 3600}) as runner:
            pids = [self.journal.pid_of("running"), self.grandchild_of("running")]
            before = list(map(is_alive, pids))
            runner.kill()
            wait_until(runner.is_gone, what="all its processes are gone")
        held, left = row(task), Runner.objects.get()
        with supervised() as neighbour:
            rescued = attempted(task, 1)
            neighbour.says("Tries rescued from a dead runner")
            status = stop(neighbour)

        self.assertEqual(before, [True, True])
        self.assertEqual(list(map(is_alive, pids)), [False, False])
        self.assertEqual((held.locked_by, held.attempts), (left.id, 0))
        self.assertGreater(left.trusted_until, timezone.now())
        self.assertEqual((rescued.attempts, rescued.locked_by), (1, None))
        self.assertEqual(rescued.last_error, "Lost: its runner died")
        self.assertEqual(status, 0)
        self.assertEqual(Runner.objects.count(), 0)
        note("SIGKILL to the supervisor, seen by a neighbour", rescued)

    def test_a_killed_launcher_takes_its_tasks_along_and_is_replaced(self):
        task = misbehaving.leave_behind(str(self.journal), "running", 600)

        with supervised() as runner:
            pids = [self.journal.pid_of("running"), self.grandchild_of("running")]
            self.kill(runner, "launcher")
            crashed = attempted(task, 1)
            after = misbehaving.work(str(self.journal), "after")
            completed(after)
            status = stop(runner)

        self.assertEqual(list(map(is_alive, pids)), [False, False])
        self.assertIn("Crashed", crashed.last_error)
        self.assertEqual(status, 0)
        note("SIGKILL to the launcher", crashed)

    def test_a_killed_bookkeeper_is_replaced_and_the_task_goes_on(self):
        path = self.folder / "go on"
        task = misbehaving.wait_for(str(self.journal), "running", str(path))

        with supervised() as runner:
            pid = self.journal.pid_of("running")
            self.kill(runner, "bookkeeper")
            runner.says("The bookkeeper died; it is replaced")
            path.touch()
            done = completed(task)
            status = stop(runner)

        self.assertEqual(done.attempts, 1)
        self.assertEqual([entry[1] for entry in self.journal.entries()], [pid, pid])
        self.assertEqual(status, 0)

    def kill(self, runner, name):
        (process,) = [p for p in runner.processes() if f": {name}" in title_of(p)]
        process.kill()


class RescueTests(LifecycleTestCase):
    """Rows that were left by runners of other places."""

    def held_by(self, owner, held_for=timedelta(seconds=1)):
        task = misbehaving.work(str(self.journal), str(owner)[:40])
        moment = timezone.now() - held_for
        Task.objects.filter(pk=task.pk).update(locked_by=owner, locked_at=moment)
        return task

    def runner_elsewhere(self, trusted_for):
        now = timezone.now()
        return Runner.objects.create(
            id=uuid.uuid4().hex,
            host="elsewhere",
            place="another boot:4711",
            pid=1,
            pid_started=1,
            started_at=now,
            trusted_until=now + trusted_for,
        )

    def runner_here(self, pid, trusted_for):
        runner = self.runner_elsewhere(trusted_for)
        runner.place, runner.pid = processes.place(), pid
        runner.pid_started = processes.started(pid)
        runner.save()
        return runner

    @pytest.mark.lifecycle
    def test_another_host_is_believed_until_its_lease_ends(self):
        silent = self.runner_elsewhere(timedelta(seconds=-1))
        trusted = self.runner_elsewhere(timedelta(hours=1))
        lost, kept = (
            self.held_by(silent.id),
            self.held_by(trusted.id, timedelta(days=1)),
        )
        stranger = self.held_by("nobody knows whom")
        pid, old_pid = self.held_by("1"), self.held_by("2", timedelta(hours=2))

        with supervised() as runner:
            rescued = [attempted(lost, 1), attempted(stranger, 1)]
            old = completed(old_pid)
            status = stop(runner)

        self.assertEqual(
            [task.last_error for task in rescued],
            [
                "Lost: nothing was heard of its runner on elsewhere",
                "Lost: its runner is unknown",
            ],
        )
        self.assertEqual(row(kept).locked_by, trusted.id)
        self.assertEqual(list(Runner.objects.all()), [trusted])
        self.assertEqual((row(pid).locked_by, row(pid).attempts), ("1", 0))
        self.assertEqual(old.attempts, 1)
        self.assertEqual(status, 0)
        note("another host's lease ran out", rescued[0])
        note("locked by what is no runner and no number", rescued[1])

    def test_a_runner_of_another_user_that_is_hidden_is_believed_until_its_lease_ends(
        self,
    ):
        other_user = ["setpriv", "--reuid=65534", "--clear-groups", "sleep", "600"]
        # Root without this capability, and no group with it, see as little as others.
        script = "mount -t proc -o hidepid=invisible,gid=65534 proc /proc && "
        script += 'exec setpriv --bounding-set=-sys_ptrace "$@"'
        hide = ["unshare", "--mount", "sh", "-c", script, "-"]

        with subprocess.Popen(other_user) as process:
            self.addCleanup(process.kill)
            wait_until(lambda: psutil.Process(process.pid).uids().real == 65534)
            look = ["test", "!", "-e", f"/proc/{process.pid}"]
            if subprocess.run([*hide, *look]).returncode:
                self.skipTest("No process can be hidden here")
            silent = self.runner_here(process.pid, timedelta(seconds=-1))
            trusted = self.runner_here(process.pid, timedelta(hours=1))
            lost, kept = self.held_by(silent.id), self.held_by(trusted.id)
            with supervised(prefix=hide) as runner:
                rescued = attempted(lost, 1)
                status = stop(runner)
            process.kill()

        self.assertEqual(rescued.last_error, "Lost: its runner died")
        self.assertEqual(row(kept).locked_by, trusted.id)
        self.assertEqual(list(Runner.objects.all()), [trusted])
        self.assertEqual(status, 0)

    def test_a_runner_whose_row_is_gone_kills_what_it_runs_and_begins_anew(self):
        task = misbehaving.leave_behind(str(self.journal), "fenced", 600)

        with supervised(settings={"BACKGROUND_TASK_LEASE": 3}) as runner:
            pid = self.journal.pid_of("fenced")
            former = Runner.objects.get().id
            Runner.objects.all().delete()
            runner.says(f"Runner {former} was declared dead by another")
            wait_until(Runner.objects.exists, what="it is known by a new name")
            alive = is_alive(pid)
            status = stop(runner)

        self.assertFalse(alive)
        self.assertEqual(status, 0)
        self.assertFalse(is_held(task))

    def test_nothing_to_do_is_no_reason_to_touch_anything(self):
        trusted = self.runner_elsewhere(timedelta(hours=1))

        run_until_empty()

        self.assertEqual(list(Runner.objects.all()), [trusted])
