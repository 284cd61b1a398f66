"""Five tasks that behave badly, each in its own way, and harm nobody but themselves."""

import ctypes
import subprocess
import time

import psutil

from background_task import background

from .models import Subprocess

MB = 1024 * 1024
ENOUGH = 1500 * MB
left_behind: list[subprocess.Popen[bytes]] = []


@background(max_run_time=2)
def overrun() -> None:
    """Take ten minutes where two seconds are allowed."""
    print("Waiting for a service that never answers")
    time.sleep(600)


@background(memory_limit="256M")
def memory_hog() -> None:
    """Take more and more memory, and give up far above the limit if nobody acts."""
    hoard: list[bytes] = []
    while len(hoard) * 16 * MB < ENOUGH:
        hoard.append(b"x" * (16 * MB))  # written to, so really taken
        print(f"{16 * len(hoard)} MiB so far")
        time.sleep(0.1)
    raise RuntimeError("Took 1.5 GB, was not stopped, and gave up")


@background
def segfault() -> None:
    """Read from address 0, as a bug in a C extension might."""
    print("Calling a library with a bug")
    ctypes.string_at(0)


@background
def raise_error() -> None:
    """Fail in the ordinary way."""
    subprocess.run(["echo", "A subprocess says this"], check=True)
    raise ValueError("This task fails every time")


@background
def leave_subprocess_behind() -> None:
    """Start a process in a session of its own, forget it, and succeed."""
    sleep = subprocess.Popen(["sleep", "600"], start_new_session=True)
    left_behind.append(sleep)  # Python warns of a Popen object that it has to collect
    Subprocess.objects.create(
        pid=sleep.pid,
        command="sleep 600",
        started=psutil.Process(sleep.pid).create_time(),
    )
