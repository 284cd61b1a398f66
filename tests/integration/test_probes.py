"""Who asks whether it is alive and ready: by a file, and by HTTP."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from background_task import control, metrics
from background_task.models import Task
from background_task.supervisor import processes
from tests.app import misbehaving

from .tools import (
    ROOT,
    LifecycleTestCase,
    attempted,
    completed,
    is_held,
    make_due,
    refused,
    row,
    stop,
    supervised,
    title_of,
    wait_until,
)

PROBE = [sys.executable, "-W", "error", "-m", "background_task.probe"]


def probe(path, *options):
    """Ask as a container's probe does; return its exit status and its one line."""
    done = subprocess.run(
        [*PROBE, str(path), *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("\n") == 1, done
    assert not done.stderr, done
    return done.returncode, done.stdout.strip()


def is_ready(path):
    return probe(path, "--ready")[0] == 0


def port_of(runner):
    """Return the port that it has chosen."""
    pattern = re.compile(r"Probes are answered on port (\d+)")
    return int(wait_until(lambda: pattern.search(runner.output))[1])


def ask(port, path, method="GET"):
    """Return the status and the text that are answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def answers(port, path, status):
    """Wait until it answers so; return the text."""

    def answered():
        with contextlib.suppress(OSError):
            found, text = ask(port, path)
            return text if found == status else None

    return wait_until(answered, what=f"{status} of {path}")


def sample(port, name, **labels):
    """Return a metric's value; None if it is not there."""
    from prometheus_client.parser import text_string_to_metric_families as families

    status, text = ask(port, "/metrics")
    if status != 200:
        return None
    for family in families(text):
        for one in family.samples:
            if one.name == f"background_task_{name}" and one.labels == labels:
                return one.value
    return None


def monitor_of(runner):
    """Return the process that answers, of a runner."""
    found = (p for p in runner.processes() if "monitor" in title_of(p))
    return next(found, None)


class HeartbeatTests(LifecycleTestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "heartbeat"

    def test_it_is_alive_and_ready_and_gone(self):
        before = probe(self.path)
        task = misbehaving.wait_for(
            str(self.journal), "waits", str(self.folder / "go on")
        )

        with supervised("--heartbeat-file", self.path) as runner:
            wait_until(lambda: is_ready(self.path), what="ready")
            alive = probe(self.path)
            control.pause("mail", "ann")
            paused = wait_until(
                lambda: (
                    (said := probe(self.path, "--ready"))[1].endswith("; paused: mail")
                    and said
                )
            )
            control.resume("mail")
            wait_until(lambda: "paused" not in probe(self.path)[1])
            self.journal.pid_of("waits")
            runner.signal(signal.SIGTERM)
            runner.says("SIGTERM: ")
            wait_until(lambda: not is_ready(self.path), what="draining")
            draining, still_alive = probe(self.path, "--ready"), probe(self.path)
            (self.folder / "go on").touch()
            status = runner.ended()

        self.assertEqual(before[0], 1)
        self.assertIn("cannot be read: No such file", before[1])
        self.assertEqual((alive[0], paused[0]), (0, 0))
        self.assertRegex(alive[1], r"^Alive: beat \d+\.\d s ago$")
        self.assertIn("it is told to stop", draining[1])
        self.assertEqual(still_alive[0], 0)
        self.assertEqual(status, 0)
        self.assertEqual(list(self.folder.glob("heartbeat*")), [])
        self.assertTrue(completed(task))

    def test_the_setting_names_it_too(self):
        settings = {"BACKGROUND_TASK_HEARTBEAT_FILE": str(self.path)}

        with supervised(settings=settings):
            wait_until(lambda: is_ready(self.path), what="ready")

    def test_one_that_is_frozen_is_not_alive(self):
        with supervised("--heartbeat-file", self.path) as runner:
            wait_until(lambda: is_ready(self.path), what="ready")
            runner.signal(signal.SIGSTOP)
            dead = wait_until(
                lambda: (said := probe(self.path, "--max-age", 1))[0] and said
            )
            runner.signal(signal.SIGCONT)
            wait_until(lambda: not probe(self.path)[0], what="alive again")

        self.assertRegex(dead[1], "the last beat was .* s ago, more than the 1 s of")

    def test_what_a_dead_runner_has_left_is_no_sign_of_life(self):
        with supervised("--heartbeat-file", self.path) as runner:
            wait_until(lambda: is_ready(self.path), what="ready")
            said = json.loads(self.path.read_text())
            runner.kill()
            left = probe(self.path)
            wait_until(runner.is_gone)

        self.assertEqual(left[0], 1)
        self.assertIn(f"left by process {said['pid']}, which is gone", left[1])
        pid = os.getpid()  # the pid of another process by now
        for changes, text in (
            ({"pid": pid}, f"process {pid}, which is gone"),
            ({"pid": pid, "place": "x:1"}, "another boot, or by another container"),
        ):
            self.path.write_text(json.dumps({**said, **changes}))
            status, line = probe(self.path, "--max-age", 1e6)
            self.assertEqual(status, 1)
            self.assertIn(text, line)
        ours = {"pid": pid, "started": processes.started(pid)}
        another_users = {"place": f"{said['place'].rpartition(':')[0]}:4711"}
        for changes in (ours, ours | another_users):
            self.path.write_text(json.dumps({**said, **changes}))
            self.assertEqual(probe(self.path, "--max-age", 1e6)[0], 0)
        for rubbish in ("", "[]", "{}", '{"at": "x"}', "\x00"):
            self.path.write_text(rubbish)
            self.assertIn("is not a heartbeat file", probe(self.path)[1])

    def test_it_imports_nothing_but_the_standard_library(self):
        code = (
            "import sys; from background_task import probe; "
            "print(*{name.partition('.')[0] for name in sys.modules})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )

        own = {"background_task", "__main__"}
        foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - own
        self.assertFalse({"django", "psutil", "setproctitle"} & foreign)
        self.assertNotIn("background_task.supervisor", done.stdout)

    def test_a_file_that_cannot_be_and_one_that_is_in_use_are_refused(self):
        output = refused("--heartbeat-file", self.folder / "no" / "such")
        self.assertIn("CommandError: The heartbeat file", output)
        self.assertIn("No such file or directory", output)
        output = refused("--in-process", "--heartbeat-file", "x", status=2)
        self.assertIn("--heartbeat-file does not go with --in-process", output)

        with supervised("--heartbeat-file", self.path):
            wait_until(lambda: is_ready(self.path), what="ready")
            output = refused("--heartbeat-file", self.path)
            self.assertEqual(probe(self.path)[0], 0)

        self.assertIn("which another process_tasks writes to", output)

    def test_a_file_that_cannot_be_written_any_more_is_told_of_once(self):
        folder = self.folder / "in memory"
        folder.mkdir()
        with supervised("--heartbeat-file", folder / "beat") as runner:
            wait_until(lambda: is_ready(folder / "beat"), what="ready")
            os.rename(folder, self.folder / "elsewhere")
            runner.says("could not be written")
            misbehaving.work(str(self.journal), "goes on")
            wait_until(self.journal.ended)
            os.rename(self.folder / "elsewhere", folder)
            wait_until(lambda: is_ready(folder / "beat"), what="ready again")
            status = stop(runner)
            output = runner.output

        self.assertEqual(status, 0)
        self.assertEqual(output.count("could not be written"), 1)


class ProbePortTests(LifecycleTestCase):
    @pytest.mark.lifecycle
    def test_it_answers_what_is_so(self):
        go_on = str(self.folder / "go on")
        options = ("--probe-port=0", "--workers=2", "--sleep=1")
        with supervised(*options, "--heartbeat-file", self.folder / "beat") as runner:
            port = port_of(runner)
            answers(port, "/readyz", 200)
            alive = ask(port, "/livez")
            head = ask(port, "/livez", "HEAD")
            answers(port, "/metrics", 200)
            held = misbehaving.wait_for(str(self.journal), "a", go_on, queue="slow")
            also = misbehaving.wait_for(str(self.journal), "b", go_on, queue="slow")
            wait_until(lambda: is_held(held) and is_held(also))
            for label in "cde":
                misbehaving.work(str(self.journal), label, queue="mail")
            bad = misbehaving.fail("bad")
            running = wait_until(
                lambda: sample(port, "running", queue="slow") == 2 and 2
            )
            depth = wait_until(
                lambda: sample(port, "queue_depth", queue="mail") == 3 and 3
            )
            oldest = sample(port, "oldest_due_seconds", queue="mail")
            (self.folder / "go on").touch()
            attempted(bad, 1)
            name = "tests.app.misbehaving"
            wait_until(
                lambda: sample(
                    port,
                    "outcomes_total",
                    task=f"{name}.fail",
                    queue="",
                    outcome="Failed",
                )
            )
            ended = wait_until(
                lambda: (
                    sample(
                        port,
                        "outcomes_total",
                        task=f"{name}.work",
                        queue="mail",
                        outcome="Succeeded",
                    )
                    == 3
                    and 3
                )
            )
            waits = sample(port, "queue_wait_seconds_count", queue="mail")
            lasted = sample(port, "duration_seconds_count", task=f"{name}.work")
            peaks = sample(port, "peak_memory_bytes_count", task=f"{name}.work")
            empty = wait_until(
                lambda: sample(port, "queue_depth", queue="mail") in (0, None)
            )
            control.pause("mail", "ann")
            misbehaving.work(str(self.journal), "later", queue="mail")
            resting = wait_until(lambda: sample(port, "paused_depth", queue="mail"))
            awake = [
                sample(port, name, queue="mail")
                for name in ("queue_depth", "oldest_due_seconds")
            ]
            others = sample(port, "paused_depth", queue="slow")
            control.pause(control.EVERY_QUEUE, "ann")
            wait_until(lambda: sample(port, "paused_depth", queue="") == 0)
            ready = ask(port, "/readyz")
            known = {
                metric: sample(port, metric)
                for metric in (
                    "ready",
                    "database_up",
                    "held",
                    "lease_age_seconds",
                    "last_poll_timestamp_seconds",
                    "claim_seconds_count",
                    "record_seconds_count",
                    "claim_errors_total",
                    "leases_reclaimed_total",
                    "monitor_lost_total",
                )
            }
            slots = sample(port, "slots", state="free")
            odd = [ask(port, "/"), ask(port, "/livez", "POST")]
            status = stop(runner)

        self.assertEqual((alive[0], head), (200, (200, "")))
        self.assertIn("ticked", alive[1])
        self.assertEqual((running, depth, ended), (2, 3, 3))
        self.assertGreater(oldest, 0)
        self.assertEqual((waits, lasted, peaks), (3, 3, 3))
        self.assertTrue(empty)
        self.assertEqual((resting, awake, others), (1, [0, 0], None))
        self.assertEqual(ready, (200, "Ready; paused: everything\n"))
        self.assertNotIn(None, known.values(), known)
        self.assertEqual((known["ready"], known["database_up"]), (1, 1))
        self.assertGreater(known["claim_seconds_count"], 0)
        self.assertGreater(known["record_seconds_count"], 0)
        self.assertEqual(slots, 2)
        self.assertEqual([one[0] for one in odd], [404, 405])
        self.assertEqual(status, 0)

    def test_a_monitor_that_dies_or_is_frozen_is_replaced_and_nothing_else_suffers(
        self,
    ):
        with supervised("--probe-port=0", "--sleep=1") as runner:
            port = port_of(runner)
            answers(port, "/readyz", 200)
            for number, why in (
                (signal.SIGKILL, "The monitor died"),
                (signal.SIGSTOP, "The monitor does not answer"),
            ):
                monitor = wait_until(lambda: monitor_of(runner))
                monitor.send_signal(number)
                runner.says(why)
                task = misbehaving.work(str(self.journal), why)
                self.assertEqual(completed(task).attempts, 1)
                answers(port, "/readyz", 200)
                self.assertNotEqual(monitor_of(runner).pid, monitor.pid)
            status = stop(runner)
            output = runner.output

        self.assertEqual(status, 0)
        self.assertEqual(output.count("ERROR"), 2, output)

    def test_it_outlives_the_launcher_and_the_bookkeeper(self):
        with supervised("--probe-port=0", "--sleep=1") as runner:
            port = port_of(runner)
            answers(port, "/readyz", 200)
            monitor = monitor_of(runner).pid
            for title in ("launcher", "bookkeeper"):
                (aide,) = [p for p in runner.processes() if title in title_of(p)]
                aide.kill()
                runner.says(f"The {title} died")
                answers(port, "/readyz", 200)
            self.assertEqual(monitor_of(runner).pid, monitor)
            status = stop(runner)

        self.assertEqual(status, 0)

    def test_a_supervisor_that_is_frozen_is_not_alive_for_long(self):
        # By the age of its last tick: what the monitor has no say in.
        with supervised("--probe-port=0") as runner:
            port = port_of(runner)
            answers(port, "/readyz", 200)
            runner.signal(signal.SIGSTOP)
            text = answers(port, "/livez", 503)
            ready = ask(port, "/readyz")
            runner.signal(signal.SIGCONT)
            answers(port, "/livez", 200)

        self.assertIn("last tick was", text)
        self.assertEqual(ready[0], 503)

    def test_clients_that_dawdle_keep_nobody(self):
        with supervised("--probe-port=0") as runner:
            port = port_of(runner)
            answers(port, "/readyz", 200)
            with contextlib.ExitStack() as stack:
                for _ in range(20):
                    slow = socket.create_connection(("127.0.0.1", port))
                    stack.enter_context(slow)
                    slow.sendall(b"GET /liv")
                alive = ask(port, "/livez")
                slow.settimeout(30)
                hung_up = slow.recv(100)  # when its time is over
            with socket.create_connection(("127.0.0.1", port)) as rude:
                rude.sendall(b"\x00\xff nonsense\r\n\r\n")
                rude.settimeout(30)
                told = rude.recv(100)
            stop(runner)

        self.assertEqual(alive[0], 200)
        self.assertEqual(hung_up, b"")
        self.assertIn(b" 400 ", told)

    def test_without_prometheus_client_it_says_what_to_install(self):
        blocked = self.folder / "prometheus_client"
        blocked.mkdir()
        (blocked / "__init__.py").write_text("raise ImportError('blocked')\n")
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path.rstrip(os.pathsep)}

        with supervised("--probe-port=0", environment=environment) as runner:
            port = port_of(runner)
            text = answers(port, "/metrics", 501)
            answers(port, "/readyz", 200)
            status = stop(runner)

        self.assertIn("pip install prometheus-client", text)
        self.assertEqual(status, 0)

    def test_ports_that_cannot_be_are_refused(self):
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = busy.getsockname()[1]
            output = refused("--probe-port", port, "--probe-host", "127.0.0.1")

        self.assertIn(f"--probe-port: nothing can listen on port {port} of", output)
        self.assertIn("Address already in use", output)
        self.assertNotIn("Traceback", output)
        for options, status, text in (
            (["--probe-port=http"], 2, "must be a whole number, 0 to 65535"),
            (["--probe-port=70000"], 2, "must be a whole number, 0 to 65535"),
            (["--probe-port=0", "--probe-host=no such"], 1, "nothing can listen on"),
            (["--probe-host=127.0.0.1"], 2, "--probe-host needs --probe-port"),
            (["--in-process", "--probe-port=0"], 2, "does not go with --in-process"),
        ):
            with self.subTest(options):
                output = refused(*options, status=status)
                self.assertIn(text, output)
                self.assertNotIn("Traceback", output)


class DepthTests(LifecycleTestCase):
    def test_an_empty_queue_of_older_rows_is_none(self):
        oldest = misbehaving.work(str(self.journal), "of none")
        make_due(oldest)
        empty = misbehaving.work(str(self.journal), "of an empty one")
        Task.objects.filter(pk=empty.pk).update(queue="")

        depth = metrics.depths().queues[""]

        self.assertEqual((depth.size, depth.oldest), (2, row(oldest).run_at))
