"""Nothing is ever left to be written into the installed package."""

import re

import pytest

from .tools import ROOT, UPSTREAM, Side, fresh_database


@pytest.fixture
def old(old_packages, tmp_path):
    with fresh_database() as database:
        yield Side(old_packages(UPSTREAM), database, tmp_path)


@pytest.mark.parametrize("auto_field", ["AutoField", "BigAutoField", ""])
def test_makemigrations_has_nothing_to_write(old, auto_field):
    ours = old.with_ours().with_auto_field(auto_field)

    said = ours.manage("makemigrations", "background_task", "--check")

    assert "No changes detected" in said


def test_upstream_would_write_into_its_own_package(old):
    """This is why the ids are pinned; if it fails, so may the test above."""
    said = old.with_auto_field("BigAutoField").manage(
        "makemigrations", "background_task", "--check", "--dry-run", status=1
    )

    assert "0003_alter_completedtask_id_alter_task_id.py" in said


def test_migrations_from_elsewhere_stop_migrate(old):
    ours = old.with_ours().with_settings(
        MIGRATION_MODULES={"background_task": "project.task_migrations"}
    )

    said = ours.manage("migrate", status=1)

    assert "background_task.E002" in said
    assert (
        "takes the migrations of background_task from project.task_migrations" in said
    )


def test_upgrading_says_what_to_do_about_every_check():
    checks = (ROOT / "background_task/checks.py").read_text()
    text = (ROOT / "UPGRADING.md").read_text()

    ids = set(re.findall(r"background_task\.[EW]\d{3}", checks))

    assert len(ids) >= 4
    assert ids <= set(re.findall(r"background_task\.[EW]\d{3}", text))
