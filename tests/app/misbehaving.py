"""Tasks that end in every other way; they tell a journal what they do."""

import contextlib
import ctypes
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.urls import get_urlconf, set_urlconf
from django.utils import timezone, translation

from background_task import background, current_task
from background_task.exceptions import InvalidTaskError
from background_task.models import Task
from background_task.supervisor.container import Container


def write(journal, event, label):
    """Append one line, whole, whoever else writes at the same time."""
    moment = time.clock_gettime(time.CLOCK_BOOTTIME)
    line = f"{event} {os.getpid()} {moment:.6f} {label}\n".encode()
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


@contextlib.contextmanager
def journaled(journal, label):
    write(journal, "begin", label)
    yield
    write(journal, "end", label)


@background
def work(journal, label, seconds=0.0, **more):
    """Be done after a while."""
    with journaled(journal, label):
        time.sleep(seconds)


@background
def tick(journal, number):
    """Say that it ran, and no more."""
    with open(journal, "a") as file:
        file.write(f"{number}\n")


@background
def wait_for(journal, label, path):
    """Be done when a file appears."""
    with journaled(journal, label):
        while not os.path.exists(path):
            time.sleep(0.02)


@background
def become_urgent(journal, label):
    """Change the own row while it runs, as a person in the admin may."""
    with journaled(journal, label):
        Task.objects.filter(task_name__endswith="become_urgent").update(priority=77)


@background
def delete_own_row(message=None):
    """Be cancelled while it runs, as a person in the admin may do."""
    Task.objects.filter(task_name__endswith="delete_own_row").delete()
    if message:
        raise ValueError(message)


@background
def fail(message):
    raise ValueError(message)


@background
def be_invalid(message):
    raise InvalidTaskError(message)


@background
def sys_exit(code):
    sys.exit(code)


@background
def os_exit(code):
    os._exit(code)


@background
def talk():
    print("out, one ", end="", flush=True)
    print("line", flush=True)
    print("err, another line", file=sys.stderr)
    print("no end of line", end="")


@background
def segfault():
    ctypes.string_at(0)


@background
def spin_in_c():
    pow(3, 10**9)


@background
def block_term(seconds):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(seconds)


@background
def hide_in_a_subprocess(seconds):
    subprocess.run(["sleep", str(seconds)])


@background
def hold_memory(mib):
    held = bytearray(mib * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(600)
    del held


@background
def hold_less(mib, less, path):
    """Hold so much until a file `less` is there, then hardly anything until `path`."""
    held = bytearray(mib * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    while not os.path.exists(less):
        time.sleep(0.02)
    del held
    while not os.path.exists(path):
        time.sleep(0.02)


@background
def fill_the_container():
    """Take memory until the container is as full as its guard lets it be."""
    container, held = Container(), []
    while container.memory_used() < 0.96 * container.memory_limit():
        held.append(b"x" * (2 << 20))
        time.sleep(0.01)
    time.sleep(600)


@background
def hold_memory_in_a_subprocess(mib):
    code = f"b = b'x' * ({mib} << 20); import time; time.sleep(600)"
    subprocess.run([sys.executable, "-c", code])


@background
def unwind(journal, label, seconds):
    """Clean up when stopped."""
    write(journal, "begin", label)
    try:
        time.sleep(seconds)
    finally:
        write(journal, "unwound", label)


@background
def swallow_the_stop(journal, label):
    """Finish although it was asked to stop."""
    with journaled(journal, label), contextlib.suppress(BaseException):
        time.sleep(600)


@background
def beat(journal, label, beats):
    """Show a sign of life every few milliseconds."""
    with journaled(journal, label):
        for _ in range(beats):
            time.sleep(0.005)
            write(journal, "alive", label)


@background
def beat_deaf(journal, label, path):
    """Show signs of life until a file appears, whoever asks it to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with journaled(journal, label):
        while not os.path.exists(path):
            time.sleep(0.005)
            write(journal, "alive", label)


@background
def leave_behind(journal, label, seconds=0.0):
    """Start a subprocess in a session of its own, which outlives this one."""
    with journaled(journal, label):
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        write(journal, "begin", f"grandchild of {label} {process.pid}")
        process.returncode = 0  # it is not ours to wait for
        time.sleep(seconds)


@background
def tell_environment(journal, label):
    with journaled(journal, label):
        write(journal, "environment", json.dumps(dict(os.environ)))


@background
def keep_a_secret(secret, how, journal):
    """End in a way, and tell nobody of the secret."""
    write(journal, "begin", how)
    current_task.progress(1, 2, "half")
    match how:
        case "fail":
            raise ValueError("a reason")
        case "mute":
            sys.exit(3)
        case "exit":
            os._exit(3)
        case "crash":
            ctypes.string_at(0)
        case "memory":
            held = [bytearray(b"x" * 2**20) for _ in range(200)]
            time.sleep(600)
            del held
        case "time" | "drain":
            time.sleep(600)


@background
def leave_a_thread_behind(journal, label):
    with journaled(journal, label):
        threading.Thread(target=time.sleep, args=(600,)).start()


@background
def tell_state(journal, label):
    """Tell what of Django's state a task finds, and do some work."""
    found = {
        "time zone": timezone.get_current_timezone_name(),
        "language": translation.get_language(),
        "urlconf": get_urlconf(),
        "atomic": connection.in_atomic_block,
        "autocommit": connection.get_autocommit(),
        "queries": len(connection.queries),
        "users": User.objects.count(),
        "session": session(),
    }
    write(journal, "state", json.dumps(found))


def session():
    """Return what names the database's end of this process's connection."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA temp.user_version")
            if not (number := cursor.fetchone()[0]):
                number = random.SystemRandom().randrange(1, 2**31)
                cursor.execute(f"PRAGMA temp.user_version = {number}")
            return number
        name = (
            "pg_backend_pid" if connection.vendor == "postgresql" else "connection_id"
        )
        cursor.execute(f"SELECT {name}()")
        return cursor.fetchone()[0]


@background
def leave_state(journal, label, what):
    """Leave behind what Django resets between two requests, or a transaction."""
    timezone.activate("Asia/Karachi")
    translation.activate("de")
    set_urlconf("no.such.urls")
    match what:
        case "atomic":
            transaction.atomic().__enter__()
        case "autocommit":
            transaction.set_autocommit(False)
        case "begin":
            connection.cursor().execute("BEGIN")
    User.objects.create(username=label)
    write(journal, "state", json.dumps({"session": session()}))
    if label == "fails":
        raise ValueError(label)


if os.path.exists(os.environ.get("TEST_VANISHING_TASK", "")):

    @background
    def vanish():
        """Known to a runner that started while the file was there, and gone later."""


@background(max_attempts=2, backoff=[0, 3600])
def fail_twice(message):
    raise ValueError(message)


@background(max_attempts=1)
def wait_once(journal, label, path):
    with journaled(journal, label):
        while not os.path.exists(path):
            time.sleep(0.02)


@background(dont_retry_on=(KeyError, ZeroDivisionError))
def fail_for_good(name):
    raise {"KeyError": KeyError, "ValueError": ValueError}[name]("as said")


@background(max_run_time=0.5, on_timeout="fail")
def be_late():
    print("on my way")
    be_late_in_here()


def be_late_in_here():
    time.sleep(600)


@background(stall_timeout=0.5)
def get_stuck():
    current_task.progress(1, 3, "the first")
    be_late_in_here()


@background
def go_on(journal, label, path):
    """Get on, and tell of it, until there is a file."""
    with journaled(journal, label):
        step = 0
        while not os.path.exists(path):
            step = min(step + 1, 1_000)
            current_task.progress(step, 1_000, f"step {step}")
            time.sleep(0.05)


@background
def tell_progress(journal, path):
    """Say how far it is, in the middle of a transaction, until a file appears."""
    with transaction.atomic(), journaled(journal, repr(current_task)):
        User.objects.create(username="uncommitted")
        while not os.path.exists(path):
            current_task.progress(7, 10, "seven \0 of ten")
            time.sleep(0.05)
    write(journal, "left", f"{current_task.time_left():.0f}")


@background(max_run_time=1)
def lock_a_row(journal, pk):
    """Lock a row, and have the server busy for longer than one may take."""
    with transaction.atomic(), journaled(journal, "holds"):
        User.objects.select_for_update().get(pk=pk)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_sleep(600)"
                if connection.vendor == "postgresql"
                else "SELECT SLEEP(600)"
            )


@background
def print_until(journal, label, path):
    """Print line after line until there is a file."""
    with journaled(journal, label):
        number = 0
        while not os.path.exists(path):
            number += 1
            print("line", number, flush=True)
            time.sleep(0.02)


@background(queue="mail")
def log(text, secret, **extra):
    """Log by a logger of one's own, from another thread, and with an own `extra`."""
    logger = logging.getLogger("shop")
    logger.warning(text)
    thread = threading.Thread(target=logger.warning, args=(f"{text} in a thread",))
    thread.start()
    thread.join()
    logger.warning(f"{text} of its own", extra={"task_id": "mine", "runner": "me"})
    raise ValueError("a bad day")


@background
def count(path):
    """Tell of progress until there is a file."""
    done = 0
    while not os.path.exists(path):
        done += 1
        current_task.progress(done, 10**6)
        time.sleep(0.02)


@background
def talk_and_fail():
    print("about to fail", flush=True)
    raise ValueError("I fail")
