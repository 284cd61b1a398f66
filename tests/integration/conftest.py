"""SQLite runs every test here; the others one of each lifecycle, and their own."""

from pathlib import Path

import pytest
from django.db import connection

HERE = Path(__file__).parent


def pytest_configure(config):
    text = "needs PostgreSQL: run there and nowhere else"
    config.addinivalue_line("markers", f"postgresql: {text}")


def pytest_collection_modifyitems(config, items):
    """Deselect what is not for this database; it is counted in the last line."""
    deselected = [item for item in items if _is_ours(item) and not _belongs(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def _is_ours(item):
    return HERE in item.path.parents


def _belongs(item):
    if item.get_closest_marker("postgresql"):
        return connection.vendor == "postgresql"
    return connection.vendor == "sqlite" or item.get_closest_marker("lifecycle")


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """Fail the test that leaves a process behind."""
    import psutil

    from .tools import SESSION, SUPERVISED

    yield
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SUPERVISED, "").split(" ")[0] == SESSION:
                left.append(process.cmdline())
        except psutil.Error:  # it ended, or is another user's
            continue
    assert not left
