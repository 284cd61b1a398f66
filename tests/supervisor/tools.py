"""The language in which these tests speak of supervisors and their processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

from background_task.supervisor.channel import Channel, pair

ROOT = Path(__file__).parents[2]
TARGETS = "tests.supervisor.targets:"
_MARK = "BACKGROUND_TASK_TEST"  # every process that descends from a run carries it


def wait_until(condition, timeout=30.0, describe=lambda: ""):
    """Return the condition's value as soon as it is true; fail after the timeout."""
    give_up_at = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= give_up_at:
            raise AssertionError(f"It did not happen in {timeout:g} s\n{describe()}")
        time.sleep(0.02)
    return value


def job(target, *args, **limits):
    """Return a job for the MemoryQueue: a function of `targets`, or a dotted name."""
    target = target if ":" in target else TARGETS + target
    return {"target": target, "args": [_plain(arg) for arg in args], "limits": limits}


def project_that(then, folder):
    """Return how to run on a project that only the discovery of tasks can become."""
    project = {
        "prepare": "tests.supervisor.targets:prepare_for_discovery_only",
        "environment": {
            "first": str(folder / "first"),
            "then": then,
            "pid": str(folder / "pid"),
        },
    }
    return {"project": project, "start_method": "spawn"}


def _plain(arg):
    return str(arg) if isinstance(arg, Path) else arg


def pid_in(path):
    """Wait until somebody has written a pid to the file, and return it."""
    return int(wait_until(lambda: path.exists() and path.read_text()))


def begun(run, pid):
    """Wait until the job that says its pid there has begun; return the pid."""
    run.wait_until(pid.exists)
    return pid_in(pid)


@contextlib.contextmanager
def channels():
    """Have two channels that talk to each other, and trust each other."""
    ours, theirs = pair()
    with (
        contextlib.closing(Channel(ours)) as near,
        contextlib.closing(Channel(theirs)) as far,
    ):
        yield near, far


def is_running(pid):
    """Does the process exist and is it no zombie?"""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ask(journal, **orders):
    """Have this asked of whoever reads this journal: see `MemoryQueue.orders`."""
    path = journal.with_suffix(".orders")
    written = path.with_suffix(".written")
    written.write_text(json.dumps(orders))
    written.rename(path)


class Run:
    """A supervisor in a process of its own, on a MemoryQueue, as a test sees it."""

    def __init__(
        self,
        folder,
        jobs,
        *,
        lease=30.0,
        sleep=0.2,
        queue=None,
        project=None,
        queue_is_down=False,
        bystander_until=None,
        start_method="template",
        command=(),
        stderr=None,
        stdout=None,
        container=None,
        **options,
    ):
        """`queue`: further arguments of the MemoryQueue; `command`: what runs it."""
        folder.mkdir()
        self.folder = folder
        self.journal = folder / "journal"
        self._mark = uuid.uuid4().hex
        arguments = {"jobs": jobs, "journal": str(self.journal), **(queue or {})}
        spec = {
            "books": {
                "queue": "tests.supervisor.memory:MemoryQueue",
                "arguments": arguments,
                "lease": lease,
                "sleep": sleep,
            },
            "project": project or {"prepare": f"{TARGETS}prepare_nothing"},
            "options": {"lease": lease, **options},
            "start_method": start_method,
            "container": container or {},
            "bystander_until": bystander_until and str(bystander_until),
        }
        if queue_is_down:
            self.journal.with_suffix(".down").touch()
        (folder / "spec.json").write_text(json.dumps(spec))
        driver = [sys.executable, "-W", "error", "-m", "tests.supervisor.driver"]
        with (
            (folder / "stderr").open("wb") as file,
            (folder / "stdout").open("wb") as out,
            (folder / "spec.json").open("rb") as something,
        ):
            self.process = subprocess.Popen(
                [*command, *driver, str(folder)],
                cwd=ROOT,
                env={**os.environ, "SPT_NOENV": "1", _MARK: self._mark},
                stdin=something,  # which no task may read
                stdout=out if stdout is None else stdout,
                stderr=file if stderr is None else stderr,
            )

    # What it says

    @property
    def log(self):
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def stdout(self):
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def result(self):
        """What the driver wrote down when the supervisor had returned."""
        return json.loads((self.folder / "result.json").read_text())

    def all_entries(self):
        """Return the journal's entries, in order."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def entries(self, event, **wanted):
        """Return the journal's entries of one kind."""
        wanted["event"] = event
        return [e for e in self.all_entries() if wanted.items() <= e.items()]

    def endings(self, number):
        """Return what was recorded of a job's tries, in order: the outcomes' names."""
        return [entry["outcome"] for entry in self.ends() if entry["id"] == number]

    def ends(self):
        """Return what was recorded, but of what was claimed ahead and given back."""
        return [e for e in self.entries("recorded") if not e.get("ahead")]

    def ending(self, number):
        """Return the only entry that was recorded of a job."""
        (entry,) = [entry for entry in self.ends() if entry["id"] == number]
        return entry

    def runners(self):
        """Return the ids under which it has registered, in order."""
        return [entry["runner"] for entry in self.entries("open", register=True)]

    # What it consists of

    def processes(self):
        """Return every living process that this run has started, whoever its parent."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found

    def pid_of(self, title):
        """Return the process that carries a title, or None."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                name = " ".join(process.cmdline())  # empty, when it is gone
                if name.startswith(f"background_task: {title}"):
                    return process.pid
        return None

    # What is done to it

    def wait_until(self, condition, timeout=30.0):
        return wait_until(condition, timeout, self._describe)

    def wait_for_log(self, text):
        self.wait_until(lambda: text in self.log)

    def wait_for_pid(self, title, other_than=None):
        """Wait for a process with that title; `other_than` is its predecessor."""
        return self.wait_until(
            lambda: (pid := self.pid_of(title)) and pid != other_than and pid
        )

    def send(self, number):
        self.process.send_signal(number)

    def finish(self, timeout=60.0):
        """Wait for its end and for its processes'; return the exit status."""
        self.wait_until(lambda: self.process.poll() is not None, timeout)
        self.wait_until(lambda: not self.processes())
        return self.process.returncode

    def stop(self):
        """Have it stop at once, whatever runs; return the exit status."""
        self.send(signal.SIGTERM)
        self.wait_for_log("SIGTERM: ")
        self.send(signal.SIGTERM)
        return self.finish()

    @contextlib.contextmanager
    def queue_down(self):
        """Have the queue unavailable for a while."""
        flag = self.journal.with_suffix(".down")
        flag.touch()
        try:
            self.wait_for_log("is unavailable: ")
            yield
        finally:
            flag.unlink(missing_ok=True)

    def ask(self, **orders):
        """Have this asked of it, and nothing else."""
        ask(self.journal, **orders)

    def write(self, **entry):
        """Write to the journal, as another runner would."""
        with self.journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def vanish(self):
        """Kill the supervisor, and wait until all that it had started is gone."""
        self.process.kill()
        self.finish()

    def kill(self):
        """Kill whatever is left of it; return what that was."""
        left = []
        if self.process.poll() is None:
            left.append(f"the supervisor, {self.process.pid}")
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.processes())
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                left.append(f"{process.pid} {' '.join(process.cmdline()).strip()}")
                process.kill()
        return left

    def _describe(self):
        journal = self.journal.read_text() if self.journal.exists() else "(none)"
        return f"--- log\n{self.log[-8000:]}\n--- journal\n{journal[-4000:]}"


class Manager:
    """The socket that NOTIFY_SOCKET names, and what has come to it."""

    def __init__(self, address):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address.replace("@", "\0", 1))
        self._lines = []

    def lines(self):
        """Return every line until now, in order."""
        try:
            while True:
                self._lines += self.socket.recv(65_536).decode().split("\n")
        except BlockingIOError:
            return self._lines

    def wait_for(self, line):
        wait_until(lambda: line in self.lines(), describe=lambda: str(self._lines))

    def forget(self):
        self.lines()
        self._lines = []

    def command(self, **more):
        """Return what runs a program as the manager would."""
        return ["env", f"NOTIFY_SOCKET={self.address}", *map("=".join, more.items())]
