"""Run a supervisor as a test has written it down; say how it went and what it left.

    python -m tests.supervisor.driver FOLDER

reads FOLDER/spec.json and writes FOLDER/result.json.
"""

import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from setproctitle import getproctitle, setproctitle

from background_task.supervisor import spawning
from background_task.supervisor.bookkeeper import Bookkeeper, Books
from background_task.supervisor.container import Container
from background_task.supervisor.job import Limits, Project
from background_task.supervisor.launcher import Launcher
from background_task.supervisor.options import Options
from background_task.supervisor.supervisor import Supervisor

_PR_SET_PDEATHSIG, _PR_GET_CHILD_SUBREAPER = 1, 37


def main(folder):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # not without its test
    spec = json.loads((folder / "spec.json").read_text())
    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    unraisable = []
    sys.unraisablehook = lambda it: unraisable.append(repr(it.exc_value))
    setproctitle("the title from before")
    signal.signal(signal.SIGHUP, on_hup)
    project = Project(**spec["project"])
    if "announcer" in spec["options"]:
        spec["options"]["announcer"] = Limits(**spec["options"]["announcer"])
    supervisor = Supervisor(
        Bookkeeper(project, Books(**spec["books"])),
        Launcher(project, spec["start_method"]),
        Options(**spec["options"]),
        Container(**spec["container"]),
    )
    with bystander(spec["bystander_until"]) as bystanders_status:
        before = surroundings()
        status = supervisor.run()
        gc.collect()
        after = surroundings()
        result = {
            "status": status,
            "failure": supervisor.failure,
            "before": before,
            "after": after,
            "unraisable": unraisable,
            "bystander": bystanders_status(),
        }
    (folder / "result.json").write_text(json.dumps(result))
    return status


def on_hup(number, frame):
    """A handler from before, to be found again afterwards."""


@contextlib.contextmanager
def bystander(gate):
    """Have a child that is none of the supervisor's, and ends while that runs."""
    if gate is None:
        yield lambda: None
        return
    script = 'while [ ! -e "$0" ]; do sleep 0.05; done; exit 7'
    with subprocess.Popen(["sh", "-c", script, gate]) as process:
        yield process.wait


def surroundings():
    """Return what of this process a run must leave as it was."""
    wakeup_fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup_fd)
    logger = logging.getLogger("background_task")
    return {
        "handlers": {
            n.name: str(signal.getsignal(n))
            for n in signal.valid_signals()
            if isinstance(n, signal.Signals)
        },
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "wakeup_fd": wakeup_fd,
        "title": getproctitle(),
        "environment": dict(os.environ),
        "subreaper": is_subreaper(),
        "threads": [thread.name for thread in threading.enumerate()],
        "logger": [repr(logger.handlers), logger.propagate],
        "files": sorted(open_files()),
    }


def is_subreaper():
    answer = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def open_files():
    spawning.resource_tracker.ensure_running()  # multiprocessing's, and here to stay
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            yield f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
