"""The benchmarks still run, at the smallest scale, and write their page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.timeout(300)
SMALLEST = "--rounds", "1", "--scale", "0.002", "--systems", "template"
NOWHERE = "postgresql://postgres@127.0.0.1:1"


@pytest.fixture(autouse=True)
def once():
    if connection.vendor != "sqlite":
        pytest.skip("once, on SQLite")


def rehearse(what, folder, *options):
    """Run the benchmarks; return what they say."""
    where = ["--results", folder / "results", "--page", folder / "page.md"]
    command = [sys.executable, "-m", "benchmarks", what, *SMALLEST, *where, *options]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": NOWHERE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_is_written_into_its_part_of_the_page_and_not_measured_twice(tmp_path):
    rehearse("claims", tmp_path, "--databases", "sqlite", "--states", "locked")
    said = rehearse("speed", tmp_path, "--databases", "sqlite")
    resumed = rehearse("speed", tmp_path, "--databases", "sqlite", "--resume")

    page = (tmp_path / "page.md").read_text()
    assert "error" not in said, said
    assert "could not be measured" not in page, page
    assert re.search(r"^\| this package, template \|.* SQLite \| [0-9.,]+ ", page, re.M)
    assert re.search(r"^\| SQLite \| locked, .*\| [0-9.,]+ \|$", page, re.M)
    assert "| idle CPU, of a core, SQLite | 3 % or less |" in page
    assert "| idle CPU, of a core, PostgreSQL | 0.5 % or less | - | not" in page
    assert "round 1" in said
    assert "round 1" not in resumed
    assert "<svg" in (tmp_path / "page.svg").read_text()
    assert '"idle_cpu"' in (tmp_path / "page-speed.jsonl").read_text()


def test_every_page_and_the_metrics_are_measured(tmp_path):
    said = rehearse("pages", tmp_path, "--databases", "sqlite")

    page = (tmp_path / "page.md").read_text()
    assert "error" not in said, said
    names = "list of tasks", "a completed task", "dashboard, nothing kept", "/metrics"
    for name in names:
        assert re.search(rf"^\| {name} \| [0-9.,]+ \|", page, re.M), page


def test_what_could_not_be_measured_is_told_with_the_reason(tmp_path):
    options = ["--databases", "postgresql", "--states", "locked"]
    rehearse("claims", tmp_path, *options)

    page = (tmp_path / "page.md").read_text()
    told = r"^\* OperationalError: .*: claims postgresql template locked 1000, claims"
    assert re.search(told, page, re.M), page
