"""One browser for all; each test is asked for what the browser complained of.

SQLite runs every test here; the others what says that it is of a lifecycle.
"""

import os
from pathlib import Path

import pytest
from django.db import connection

from tests.integration.conftest import _nothing_left_behind  # noqa: F401

from .tools import Chromium, Page, missing

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config, items):
    """Deselect what is not for this database; it is counted in the last line."""
    if connection.vendor == "sqlite":
        return
    ours = [item for item in items if HERE in item.path.parents]
    deselected = [item for item in ours if not item.get_closest_marker("lifecycle")]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


@pytest.fixture(scope="session")
def chromium():
    """Skip, or fail if the browser tests are required, where there is no browser."""
    if lacking := missing():
        text = f"NOT TESTED: a browser needs {' and '.join(lacking)} on PATH"
        fail = os.environ.get("TEST_REQUIRE_BROWSER")
        (pytest.fail if fail else pytest.skip)(text)
    with Chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _page(chromium, request):
    page = Page(chromium.driver, request.cls.live_server_url)
    request.instance.page = page
    yield
    try:
        assert not page.problems()
    finally:
        page.leave()
