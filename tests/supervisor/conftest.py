"""Whatever a test starts has ended when the test has."""

import os

import psutil
import pytest

from background_task.supervisor import spawning

from .tools import Run


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """No test leaves a child, but for multiprocessing's own helper."""
    before = {child.pid for child in psutil.Process().children()}
    yield
    after = {child.pid for child in psutil.Process().children()}
    assert after - before - {spawning.resource_tracker_pid()} == set()


@pytest.fixture(autouse=True)
def _no_file_is_left_open():
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a supervisor with some jobs: see `Run`."""
    yield from _runs(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory):
    """Return the same, for a supervisor that all tests of a module look at."""
    yield from _runs(tmp_path_factory.mktemp("module"))


def _runs(folder):
    runs = []

    def start(*jobs, **how):
        run = Run(folder / f"run{len(runs)}", jobs, **how)
        runs.append(run)
        return run

    yield start
    left = [what for run in runs for what in run.kill()]
    assert not left, "\n".join(left)


@pytest.fixture
def pid(tmp_path):
    """Where a job says who it is."""
    return tmp_path / "pid"


@pytest.fixture
def gate(tmp_path):
    """What a job waits for."""
    return tmp_path / "gate"
