"""The old packages come from a package index; without one these tests are skipped."""

import functools
from pathlib import Path

import pytest
from django.db import connection

from .tools import pip

HERE = Path(__file__).parent
# In which the database has a part; the others run once, on SQLite.
ON_EVERY_DATABASE = {"test_in_place.py", "test_sql.py"}


@pytest.fixture(scope="session")
def old_packages(tmp_path_factory):
    """Return a function that fetches an old package and says in which folder it is."""

    @functools.cache
    def fetch(requirement):
        folder = tmp_path_factory.mktemp("old-package")
        pip(
            "install",
            "--no-compile",
            "--no-deps",
            "--target",
            folder,
            requirement,
            "six",
        )
        return folder

    return fetch


def pytest_collection_modifyitems(config, items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))  # a fixture tells a whole story
    if connection.vendor == "sqlite":
        return
    deselected = [item for item in items if item.path.parent == HERE and _once(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def _once(item):
    return item.path.name not in ON_EVERY_DATABASE
