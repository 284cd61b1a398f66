"""The migrations that the old packages have applied already."""

import pytest

from .tools import UPSTREAM, Side, fresh_database


@pytest.fixture
def old(old_packages, tmp_path):
    with fresh_database() as database:
        yield Side(old_packages(UPSTREAM), database, tmp_path)


@pytest.mark.parametrize("name", ["0001_initial", "0002_auto_20170927_1109"])
def test_the_sql_is_upstreams(old, name):
    theirs = old.manage("sqlmigrate", "background_task", name)
    ours = old.with_ours().manage("sqlmigrate", "background_task", name)

    assert "CREATE TABLE" in theirs or name != "0001_initial"
    assert ours == theirs


@pytest.mark.parametrize("name", ["0003_auto_20210410_1529", "0004_auto_20220202_1721"])
def test_what_went_to_and_fro_in_between_is_no_operation(old, name):
    said = old.with_ours().manage("sqlmigrate", "background_task", name)

    assert said.strip() == "No operations found."
