"""A job's temporary files go with it, and nothing else does."""

import contextlib
import hashlib
import os
import stat
import subprocess
import tempfile

import pytest

from background_task.supervisor import processes
from background_task.supervisor.folders import Folders

from .tools import wait_until


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """The folder in which temporary files are."""
    parent = tmp_path / "tmp"
    parent.mkdir(mode=0o777)
    parent.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    return parent


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def left_by_the_dead():
    """Return the beginning of the name of what a dead supervisor of here has left."""
    place = hashlib.sha256(processes.place().encode()).hexdigest()[:8]
    dead = subprocess.Popen(["true"])
    dead.wait()
    return f"background-task-{place}-{dead.pid}-123-"


def test_a_folder_is_made_and_removed_with_all_that_is_in_it(parent):
    with Folders() as folders:
        folder = folders.make("1")
        os.mkdir(f"{folder}/deep")
        with open(f"{folder}/deep/file", "w"):
            pass
        folders.remove(folder)
        wait_until(lambda: not os.path.exists(folder))

    assert os.listdir(parent) == []


def test_the_parent_stays_as_it_is_with_and_without_jobs(parent):
    for jobs in (0, 1):
        with Folders() as folders:
            for number in range(jobs):
                folders.make(str(number))
        assert mode(parent) == 0o1777
        assert os.listdir(parent) == []


def test_what_a_job_has_locked_up_is_removed_and_links_are_not_followed(
    parent, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o750)
    (elsewhere / "file").touch()
    with Folders() as folders:
        folder = folders.make("1")
        os.mkdir(f"{folder}/locked")
        with open(f"{folder}/locked/file", "w"):
            pass
        os.symlink(elsewhere, f"{folder}/locked/link")
        os.symlink(elsewhere, f"{folder}/link")
        os.chmod(f"{folder}/locked", 0)
        folders.remove(folder)
        wait_until(lambda: not os.path.exists(folder))

    assert mode(elsewhere) == 0o750
    assert (elsewhere / "file").exists()


def test_what_the_dead_have_left_is_removed_and_what_only_looks_so_is_not(
    parent, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o750)
    (elsewhere / "file").touch()
    prefix = left_by_the_dead()
    (parent / f"{prefix}abc" / "7").mkdir(parents=True)
    (parent / f"{prefix}link").symlink_to(elsewhere)
    (parent / f"{prefix}file").touch()
    alive = f"{os.getpid()}-{processes.started(os.getpid())}"
    (parent / f"{prefix.rsplit('-', 3)[0]}-{alive}-abc").mkdir()
    with Folders():
        wait_until(lambda: not (parent / f"{prefix}abc").exists())

    assert len(os.listdir(parent)) == 3
    assert mode(elsewhere) == 0o750
    assert (elsewhere / "file").exists()


def test_without_a_place_for_them_it_is_said_once(parent, caplog, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(parent / "not there"))
    with Folders() as folders:
        assert folders.make("1") is None
        assert folders.make("2") is None

    with contextlib.suppress(ValueError):
        caplog.records.remove(None)
    said = [r for r in caplog.records if "temporary folders" in r.getMessage()]
    assert len(said) == 1
