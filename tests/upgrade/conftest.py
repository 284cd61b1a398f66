"""The old packages come from a package index; without one these tests are skipped."""

import functools
from pathlib import Path

import pytest
from django.db import connection

from .tools import pip

HERE = Path(__file__).parent
# What a database has no part in runs once.
ON_SQLITE_ONLY = {"test_pip.py"}


@pytest.fixture(scope="session")
def old_packages(tmp_path_factory):
    """Return a function that fetches an old package and says in which folder it is."""

    @functools.cache
    def fetch(requirement):
        folder = tmp_path_factory.mktemp("old-package")
        pip("install", "--no-deps", "--target", folder, requirement, "six")
        return folder

    return fetch


def pytest_collection_modifyitems(config, items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))  # a fixture tells a whole story
    if connection.vendor == "sqlite":
        return
    skipped = [i for i in items if i.path.parent == HERE and _once(i)]
    if skipped:
        config.hook.pytest_deselected(items=skipped)
        items[:] = [item for item in items if item not in skipped]


def _once(item):
    return item.path.name in ON_SQLITE_ONLY
