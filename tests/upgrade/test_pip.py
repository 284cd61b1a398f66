"""The swap as a team does it: pip, `manage.py check`, `manage.py migrate`.

In a virtual environment of its own, since here pip's leftovers are the subject. The
test is the story of UPGRADING.md, told in its order.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .tools import DJANGO4, ROOT, UPSTREAM, Side, fresh_database, pip

NEEDED = ("django", "asgiref", "sqlparse", "psutil", "setproctitle")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Our package, as an index would serve it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("background_task", "supervisor"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with what the project needs, but for the tasks' package."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    create = [sys.executable, "-m", "venv", "--without-pip", folder]
    subprocess.run(create, check=True)
    return Environment(folder)


class Environment:
    def __init__(self, folder):
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        for name in NEEDED:  # those of this environment will do
            (self.packages / name).symlink_to(Path(find_spec(name).origin).parent)
        self.install("six")

    def install(self, *arguments):
        pip("--python", self.python, "install", "--no-compile", "--no-deps", *arguments)

    def uninstall(self, name):
        pip("--python", self.python, "uninstall", "--yes", name)


@pytest.fixture
def project(environment, tmp_path):
    with fresh_database() as database:
        yield Side(environment.packages, database, tmp_path, python=environment.python)


def test_a_migration_that_pip_leaves_behind_is_named(environment, wheel, project):
    environment.install(UPSTREAM)
    project = project.with_auto_field("BigAutoField")
    project.manage("makemigrations", "background_task", "--name=big_ids")
    project.manage("migrate", "--verbosity=0")
    left = environment.packages / "background_task/migrations/0003_big_ids.py"

    environment.install(wheel)

    assert left.exists()
    assert f"Delete {left}" in project.manage("check")
    said = project.manage("migrate", status=1)
    assert said.index("background_task.W001") < said.index("Conflicting migrations")

    left.unlink()

    assert "background_task" not in project.manage("check")
    project.manage("migrate", "--verbosity=0")
    project.manage("migrate", "--check")


def test_two_distributions_in_one_folder_are_refused(environment, wheel, project):
    environment.install(DJANGO4)
    environment.install("--force-reinstall", wheel)

    said = project.manage("check", status=1)

    assert "background_task.E001" in said
    assert "pip uninstall django4-background-tasks" in said
    assert "pip install --force-reinstall --no-deps .`" in said

    environment.uninstall("django4-background-tasks")
    environment.install("--force-reinstall", wheel)

    assert "no issues" in project.manage("check")
    project.manage("migrate", "--verbosity=0")


def test_the_old_package_comes_back_by_pip(environment, wheel, project):
    environment.install(wheel)
    project.manage("migrate", "--verbosity=0")
    project.manage("migrate", "--verbosity=0", "background_task", "0002")

    environment.install(UPSTREAM)

    assert not (environment.packages / "background_task/supervisor").exists()
    assert project.do("enqueue=again", "run_due")["run_due"] == 2
