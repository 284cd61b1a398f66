"""The small language of these tests: supervise, enqueue, wait, look.

Real processes and real signals. Waiting is for conditions, never for time.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path

import psutil
from django.db import connections
from django.test import TransactionTestCase
from django.utils import timezone

from background_task.models import CompletedTask, Task
from background_task.supervisor import processes

ROOT = Path(__file__).parent.parent.parent
# Every process of a test's supervisor carries it, and whatever they start.
SUPERVISED = "TEST_SUPERVISED"
SESSION = str(os.getpid())  # another may test something else at the same time
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{levelname} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"background_task": {"handlers": ["console"], "level": "INFO"}},
}
QUIET = {"LOGGING": {"version": 1}}  # what is shown by default
EVERYTHING = {
    **LOGGING,
    "loggers": {"background_task": {"handlers": ["console"], "level": "DEBUG"}},
}


def wait_until(condition, timeout=40.0, what=None):
    """Return what `condition` returns as soon as it is true; fail if it never is."""
    give_up_at = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > give_up_at:
            what = what or getattr(condition, "__name__", condition)
            raise AssertionError(f"Waited {timeout:g} s in vain for: {what}")
        time.sleep(0.05)
    return result


class LifecycleTestCase(TransactionTestCase):
    """Rows that other processes see, and a folder that does not outlive the test."""

    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="lifecycle-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.journal = Journal(self.folder / "journal")


# What runs


class Supervised:
    """A running `process_tasks`, or one that has run."""

    def __init__(self, process, mark, log):
        self.process = process
        self.mark = mark
        self.log = log
        self.pid = process.pid

    @property
    def output(self):
        """Return what it and its processes have said so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def ended(self, timeout=60.0):
        """Wait for its end and return its exit status."""
        wait_until(lambda: self.process.poll() is not None, timeout, "its end")
        return self.process.returncode

    def is_up(self):
        """Has it been told what the project's tasks are, and claimed or looked?"""
        return "background_task: bookkeeper" in self.titles() and (
            "background_task: discovery" not in self.titles()
        )

    def processes(self):
        """Return every living process of it, and of its tasks."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(SUPERVISED) == self.mark:
                    found.append(process)
        return found

    def titles(self):
        return [title_of(process) for process in self.processes()]

    def says(self, text):
        """Wait until it has said this."""
        wait_until(lambda: text in self.output, what=f"{text!r} in the log")

    def kill(self):
        """Kill the supervisor alone: all the rest is its launcher's to end."""
        self.process.kill()
        self.process.wait()

    def is_gone(self):
        """Is no process of it left, nor of its tasks?"""
        return not self.processes()


# For where it is the many that count: without the checks that the others have on.
FAST = {"PYTHONDEVMODE": "", "PYTHONWARNINGS": "", "PYTHONMALLOC": ""}

# What every `process_tasks` here is told; `.ci/run` has some spawn their tasks.
SETTINGS = {"LOGGING": LOGGING}
if method := os.environ.get("TEST_START_METHOD"):
    SETTINGS["BACKGROUND_TASK_START_METHOD"] = method


@contextlib.contextmanager
def supervised(*options, settings=None, databases=None, environment=None, prefix=()):
    """Have `process_tasks` run meanwhile; afterwards nothing of it is left.

    `settings` stand over the test project's; `databases` over the session's; `prefix`
    is a command that runs it.
    """
    mark = f"{SESSION} {uuid.uuid4().hex}"
    folder = Path(tempfile.mkdtemp(prefix="supervised-"))
    log = folder / "log"
    command = [*prefix, sys.executable, "-m", "tests.integration.run_process_tasks"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {
                SUPERVISED: mark,
                "PYTHONWARNINGS": "error",
                "TEST_SETTINGS": _as_text({**SETTINGS, **(settings or {})}),
                "TEST_DATABASES": json.dumps(databases or effective_databases()),
                **(environment or {}),
            },
        )
    it = Supervised(process, mark, log)
    try:
        yield it
        assert "Exception ignored" not in it.output, it.output
    finally:
        it.kill()
        print(f"--- process_tasks {' '.join(map(str, options))}\n{it.output}---")
        try:
            wait_until(it.is_gone, what=f"the end of {it.titles()}")
        finally:
            for left in it.processes():
                left.kill()
            shutil.rmtree(folder, ignore_errors=True)


def run_until_empty(*options, **how):
    """Run `process_tasks --until-empty` to its end; return what it said.

    It must end well.
    """
    with supervised("--until-empty", *options, **how) as runner:
        status = runner.ended()
        assert status == 0, f"exit status {status}:\n{runner.output}"
        return runner.output


def refused(*options, status=1, **how):
    """Run `process_tasks`, which must not get to work; return what it says."""
    with supervised(*options, **how) as runner:
        ended = runner.ended()
        assert ended == status, f"exit status {ended}:\n{runner.output}"
        return runner.output


@contextlib.contextmanager
def commanding(*arguments, settings=None, databases=None):
    """Have a `manage.py` command run meanwhile: its Popen, with pipes of text."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.run_command", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell it would be deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ
        | {
            SUPERVISED: f"{SESSION} {uuid.uuid4().hex}",
            "PYTHONWARNINGS": "error",
            "TEST_SETTINGS": _as_text({**SETTINGS, **(settings or {})}),
            "TEST_DATABASES": json.dumps(databases or effective_databases()),
        },
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def command(*arguments, **how):
    """Run a `manage.py` command to its end; return (status, stdout, stderr)."""
    with commanding(*arguments, **how) as process:
        out, err = process.communicate(timeout=60)
    print(f"--- {' '.join(map(str, arguments))}: {process.returncode}\n{out}{err}---")
    return process.returncode, out, err


def effective_databases():
    """Return where the test session's databases really are."""
    names = ("NAME", "HOST", "PORT", "USER", "PASSWORD")
    return {
        alias: {name: str(connections[alias].settings_dict[name]) for name in names}
        for alias in connections
    }


def _as_text(settings):
    pairs = (f"{name}={json.dumps(value)}" for name, value in settings.items())
    text = ";".join(pairs)
    assert text.count(";") == len(settings) - 1, "no semicolons in test settings"
    return text


# What processes there are


def title_of(process):
    """Return a process's title or command line; empty if it is gone."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def is_alive(pid):
    """Does this process run? A zombie does not."""
    return processes.started(pid) is not None


# What tasks do, by their own account


class Journal:
    """What tasks wrote of themselves: `begin` and `end` with pid, moment and label."""

    def __init__(self, path):
        self.path = Path(path)
        self.clear()

    def clear(self):
        """Forget what was written until now."""
        self.path.unlink(missing_ok=True)
        self._entries, self._read = [], 0  # so far, and how many bytes that was

    def __str__(self):
        return str(self.path)

    def entries(self):
        """Return (event, pid, moment, label) in the order of writing."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole, end, _ = file.read().rpartition(b"\n")
            self._read += len(whole + end)
            for line in whole.decode().splitlines():
                event, pid, at, label = line.split(" ", 3)
                self._entries.append((event, int(pid), float(at), label))
        return self._entries

    def begun(self):
        return [label for event, _, _, label in self.entries() if event == "begin"]

    def ended(self):
        return [label for event, _, _, label in self.entries() if event == "end"]

    def pid_of(self, label):
        """Wait until this one has begun; return its process."""

        def begun():
            return [e for e in self.entries() if e[0] == "begin" and e[3] == label]

        return wait_until(begun, what=f"{label} begins")[-1][1]

    def overlaps(self):
        """Return the labels of which two tries ran at the same time.

        A try that wrote no end ended, at the latest, when its process was seen to be
        gone, which was before the next one began if all is well; so it is taken to
        have lasted from its first word to its last.
        """
        tries = {}
        for event, pid, at, label in self.entries():
            one = tries.setdefault((label, pid), [at, at])
            one[0 if event == "begin" else 1] = at
        by_label = {}
        for (label, _), interval in tries.items():
            by_label.setdefault(label, []).append(interval)
        found = []
        for label, intervals in by_label.items():
            intervals.sort()
            pairs = itertools.pairwise(intervals)
            if any(later[0] < former[1] for former, later in pairs):
                found.append(label)
        return found


# What rows say


def put(name, *args, **columns):
    """Save a task that is due now, whose name need not be known here."""
    task = Task.objects.new_task(f"tests.app.misbehaving.{name}", args, {})
    return save(task, **columns)


def save(task, **columns):
    for column, value in columns.items():
        setattr(task, column, value)
    task.run_at -= timedelta(minutes=1)
    task.save()
    return task


def row(task):
    """Return a task as it is now; None if it is no longer among the waiting."""
    return Task.objects.filter(pk=task.pk).first()


def is_held(task):
    now = row(task)
    return now is not None and now.locked_by is not None


def attempted(task, times):
    """Wait until a task has been tried so often and is free; return it."""

    def recorded():
        now = row(task)
        return now if now and now.attempts >= times and not now.locked_by else None

    return wait_until(recorded, what=f"{task} tried {times} times")


def make_due(*tasks):
    """Have the next try come now, whatever the back-off says."""
    moment = timezone.now() - timedelta(minutes=1)
    Task.objects.filter(pk__in=[task.pk for task in tasks]).update(run_at=moment)


def completed(task):
    """Wait until a task has come to its end; return the completed row."""
    rows = CompletedTask.objects.filter(task_hash=task.task_hash)
    return wait_until(rows.first, what=f"the end of {task}")


def note(how, task):
    """Print what a row says of an ending: `pytest -s` shows the table."""
    lines = task.last_error.strip().splitlines()
    state = "failed" if task.failed_at else "waits"
    text = lines[-1] if lines else "(no error)"
    print(f"ENDING | {how} | {state}, attempts {task.attempts} | {text}")


def stop(runner, number=signal.SIGTERM):
    """Ask it to stop; return its exit status."""
    runner.signal(number)
    return runner.ended()
