"""Certificate watch: real certificates, and tasks that misbehave beside them.

make demo    a new database: schedule, process, and check every ending
make admin   look at the same database in Django's admin
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import certifi
import django
import psutil

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certwatch.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections, transaction  # noqa: E402
from watch import misbehaving, tasks  # noqa: E402
from watch.certificates import read_bundle  # noqa: E402
from watch.models import Certificate, Subprocess  # noqa: E402

from background_task.models import Attempt, CompletedTask, Task  # noqa: E402

DATABASE = Path(settings.DATABASES["default"]["NAME"])
LOG = DATABASE.with_name("demo.log")
MANAGE = DATABASE.with_name("manage.py")
ARGUMENTS = ["process_tasks", "--workers", "4", "--until-empty"]
PATIENCE = 120  # seconds: on two cores it takes 5 to 10, on a busy machine 20
ON_TERMINAL = sys.stdout.isatty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How a misbehaving task must end: failed, with these words in its error."""

    task: str
    words: str
    in_short: str


MISBEHAVIOUR = (
    Expectation(task="overrun", words="2 s", in_short="stopped after 2 s"),
    Expectation(task="memory_hog", words="256", in_short="stopped over 256 MiB"),
    Expectation(task="segfault", words="SIGSEGV", in_short="killed by SIGSEGV"),
    Expectation(task="raise_error", words="ValueError", in_short="raised ValueError"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: what should have happened, and what did."""

    ok: bool
    what: str
    expected: str
    found: str


# The story


def demo() -> int:
    """Schedule everything, process it, and say what became of it."""
    remove_database()
    call_command("migrate", verbosity=0)
    schedule_everything()
    scheduled = Counter(queued(tasks.check_certificate))
    total = Task.objects.count()
    started = time.monotonic()
    process = start_processing()
    try:
        follow(process, started, total)
    except KeyboardInterrupt:
        stop(process)
        print(f"\nStopped. {Task.objects.count()} tasks are still in the queue.")
        return 130
    took = time.monotonic() - started
    findings = check_everything(scheduled, process.returncode, took)
    show_findings(findings)
    show_evidence()
    show_numbers(took)
    show_what_expires_first()
    return conclude(findings)


def admin() -> int:
    """Serve the admin of the demo's database, which is made if there is none."""
    is_new = not DATABASE.exists()
    call_command("migrate", verbosity=0)
    if is_new:
        schedule_everything()
        print(f"To run them:  {as_typed('process_tasks', '--workers', '4')}\n")
    if not get_user_model().objects.filter(username="demo").exists():
        get_user_model().objects.create_superuser("demo", password="demo")
    print("http://127.0.0.1:8000/admin/   user: demo   password: demo\n", flush=True)
    call_command("runserver", "127.0.0.1:8000", use_reloader=False)
    return 0


# Scheduling


def remove_database() -> None:
    for path in DATABASE.parent.glob(DATABASE.name + "*"):  # with -wal and -shm
        path.unlink()


def schedule_everything() -> None:
    """Queue every task; the bad ones first, so that good ones run beside them."""
    bundle = read_bundle()
    with transaction.atomic():
        misbehaving.overrun()
        misbehaving.memory_hog()
        misbehaving.segfault()
        misbehaving.raise_error()
        misbehaving.leave_subprocess_behind()
        for fingerprint in bundle:
            tasks.check_certificate(fingerprint)
        tasks.recheck_certificates(repeat=Task.DAILY, priority=-1)
    print(
        f"{len(bundle)} certificates in the bundle of certifi {certifi.__version__}\n"
        f"{Task.objects.count()} tasks scheduled: one for each certificate, "
        "a daily re-check, and 5 that misbehave\n"
    )


def queued(task):
    """Return the hashes of a task's rows in the queue: its name and arguments."""
    rows = Task.objects.filter(task_name=task.name)
    return rows.values_list("task_hash", flat=True)


# Processing


def start_processing() -> subprocess.Popen[bytes]:
    """Start `process_tasks` in its own process group: Ctrl-C is ours to pass on."""
    print(bold(as_typed(*ARGUMENTS)), flush=True)
    with LOG.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, MANAGE, *ARGUMENTS],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def follow(process: subprocess.Popen[bytes], started: float, total: int) -> None:
    """Show how far the queue has come until `process_tasks` has ended."""
    while process.poll() is None:
        elapsed = time.monotonic() - started
        if elapsed > PATIENCE:
            stop(process)
            break
        show_progress(elapsed, total)
        try:
            process.wait(0.2 if ON_TERMINAL else 2)
        except subprocess.TimeoutExpired:
            continue
    show_progress(time.monotonic() - started, total)
    if ON_TERMINAL:
        print()


def show_progress(elapsed: float, total: int) -> None:
    """Write one line: over the last one on a terminal, else below it."""
    ended = CompletedTask.objects.count()
    failed = CompletedTask.objects.filter(failed_at__isnull=False).count()
    bar = "#" * (30 * ended // total)
    line = f"[{bar:.<30}] {ended} of {total} ended, {failed} failed {elapsed:6.1f} s"
    if ON_TERMINAL:
        print(f"\r\033[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask `process_tasks` to let its tasks finish, and wait; ask again on Ctrl-C."""
    process.terminate()
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()  # the second time it stops them at once


# Checking


def check_everything(
    scheduled: Counter[str], status: int, took: float
) -> list[Finding]:
    """Compare the database, and the process table, with what should be there."""
    return [
        check_certificates(scheduled),
        check_recheck(),
        *map(check_misbehaviour, MISBEHAVIOUR),
        check_subprocess(),
        check_command(status, took),
    ]


def check_certificates(scheduled: Counter[str]) -> Finding:
    """Every certificate: one task that succeeded at its first try, and one row."""
    rows = CompletedTask.objects.filter(task_name=tasks.check_certificate.name)
    good = rows.filter(failed_at=None, attempts__lte=1)
    succeeded = Counter(good.values_list("task_hash", flat=True))
    stored = Certificate.objects.count()
    ok = succeeded == scheduled and rows.count() == stored == len(scheduled)
    found = f"{len(succeeded)} succeeded, each once"
    if not ok:
        found = f"{good.count()} of {rows.count()} rows succeeded; {stored} stored"
    expected = f"{len(scheduled)} succeeded, each once"
    return Finding(ok, "check_certificate", expected, found)


def check_recheck() -> Finding:
    """The daily task: it ran once, and nothing but its next run is in the queue."""
    name = tasks.recheck_certificates.name
    expected = "succeeded, only next run queued"
    found = outcome(name)
    left = list(Task.objects.all())
    if [(task.task_name, task.attempts) for task in left] != [(name, 0)]:
        what = f"{found}; {len(left)} tasks in the queue"
        return Finding(False, "recheck_certificates", expected, what)
    what = f"{found}; next run {left[0].run_at:%d %b %Y %H:%M} UTC"
    return Finding(found == "succeeded", "recheck_certificates", expected, what)


def check_misbehaviour(expected: Expectation) -> Finding:
    found = outcome(f"watch.misbehaving.{expected.task}")
    ok = found.startswith("failed: ") and expected.words in found
    return Finding(ok, expected.task, expected.in_short, found)


def check_subprocess() -> Finding:
    """The task that left a process behind: it succeeded, and the process is gone."""
    found = outcome(misbehaving.leave_subprocess_behind.name)
    left_behind = list(Subprocess.objects.all())
    alive = [process for process in left_behind if is_alive(process)]
    ok = found == "succeeded" and len(left_behind) == 1 and not alive
    for process in left_behind:
        found += f"; {process} is {'alive' if process in alive else 'gone'}"
    expected = "succeeded, subprocess gone"
    return Finding(ok, "leave_subprocess_behind", expected, found)


def check_command(status: int, took: float) -> Finding:
    ok = status == 0 and took <= PATIENCE
    found = f"exit status {status} after {took:.1f} s"
    return Finding(ok, "process_tasks", "exit status 0", found)


def outcome(task_name: str) -> str:
    """Return how a task ended that must have ended once, in the words of its row."""
    rows = list(CompletedTask.objects.filter(task_name=task_name))
    if len(rows) != 1:
        return f"ended {len(rows)} times"
    if rows[0].failed_at is None:
        return "succeeded"
    lines = rows[0].last_error.strip().splitlines() or ["(no error text)"]
    is_traceback = lines[0].startswith("Traceback")
    return f"failed: {lines[-1 if is_traceback else 0]}"


def is_alive(left_behind: Subprocess) -> bool:
    """Return whether a process still runs: itself, not a later one with its number."""
    try:
        process = psutil.Process(left_behind.pid)
        is_same = abs(process.create_time() - left_behind.started) < 1
        return is_same and process.cmdline() == left_behind.command.split()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


# Telling


def show_findings(findings: list[Finding]) -> None:
    print()
    print(bold(f"    {'Task':24} {'Expected':32} Found"))
    for it in findings:
        mark = green("ok") if it.ok else red("NO")
        print(f"{mark}  {it.what:24} {it.expected:32} {it.found}")


def show_evidence() -> None:
    """Show what was kept of each that failed: output, stack, memory, CPU."""
    print(bold("\nWhat is known of those that failed (background_task.models.Attempt)"))
    for attempt in Attempt.objects.exclude(outcome=Attempt.Outcome.SUCCEEDED):
        name = attempt.task_name.rpartition(".")[2]
        peak = "?" if attempt.peak_memory is None else f"{attempt.peak_memory >> 20}"
        print(
            f"{name}: {attempt.get_outcome_display()} after {attempt.duration:.1f} s, "
            f"{attempt.cpu_seconds or 0:.2f} s of CPU, at most {peak} MiB, "
            f"exit code {attempt.exit_code}"
        )
        printed = [line for line in attempt.output.splitlines() if "INFO" not in line]
        for line in printed[-2:]:
            print(dim(f"    printed  {line}"))
        for line in stack_of(attempt):
            print(dim(f"    was in   {line}"))


def stack_of(attempt: Attempt) -> list[str]:
    """Return the innermost frames of the project's own code."""
    frames = [line.strip() for line in attempt.stack.splitlines() if "File " in line]
    own = [f for f in frames if "/watch/" in f]
    return [re.sub(r'".*/(watch/[^"]*)"', r"\1", f)[len("File ") :] for f in own[:2]]


def show_numbers(took: float) -> None:
    """Say how much was done, by how many processes, and where the log is."""
    pids = Certificate.objects.values("checked_by").distinct().count()
    lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
    warnings = sum(bool(re.match(r"\S+ \S+ (WARN|ERR|CRIT)", line)) for line in lines)
    print(
        f"\n{CompletedTask.objects.count()} tasks in {took:.1f} s, 4 at a time; "
        f"{Certificate.objects.count()} certificates were read by {pids} processes\n"
        f"{LOG.parent.name}/{LOG.name}: what process_tasks said, "
        f"{len(lines)} lines, {warnings} of them warnings or errors"
    )


def show_what_expires_first() -> None:
    expired = Certificate.objects.filter(days_left__lt=0).count()
    print(bold("\nWhat expires first"))
    for certificate in Certificate.objects.filter(days_left__gte=0)[:5]:
        print(
            f"{certificate.days_left:6} days   {certificate.not_after:%d %b %Y}   "
            f"{certificate.subject}, {certificate.key}"
        )
    print(f"Expired: {expired or 'none'} of {Certificate.objects.count()}")


def conclude(findings: list[Finding]) -> int:
    """Return the exit status, and for a bad one say what to look at."""
    wrong = [finding.what for finding in findings if not finding.ok]
    if not wrong:
        return 0
    print(red(f"\nNot as it should be: {', '.join(wrong)}"))
    print(f"The end of {LOG.parent.name}/{LOG.name}:")
    for line in LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]:
        print(dim(f"  {line}"))
    return 1


def as_typed(*arguments: str) -> str:
    """Return a `manage.py` command as one would type it here."""
    return " ".join([str(short(sys.executable)), str(short(MANAGE)), *arguments])


def short(path: str | Path) -> Path:
    """Return a path as it is seen from the working directory, if it is below it."""
    path, here = Path(path), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def styled(code: int, text: str) -> str:
    plain = not ON_TERMINAL or "NO_COLOR" in os.environ
    return text if plain else f"\033[{code}m{text}\033[0m"


def bold(text: str) -> str:
    return styled(1, text)


def dim(text: str) -> str:
    return styled(2, text)


def red(text: str) -> str:
    return styled(31, text)


def green(text: str) -> str:
    return styled(32, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--admin", action="store_true", help="serve Django's admin")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # names in any script, any terminal
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # TERM is like Ctrl-C
    try:
        return admin() if options.admin else demo()
    finally:
        connections.close_all()


if __name__ == "__main__":
    sys.exit(main())
