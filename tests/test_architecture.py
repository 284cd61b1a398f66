"""The arrows between the packages point one way: a diagram that can fail."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUPERVISOR = sorted((ROOT / "supervisor").glob("**/*.py"))
APP = sorted(
    path
    for path in (ROOT / "background_task").glob("**/*.py")
    if "supervisor" not in path.relative_to(ROOT).parts[:2]
)
THIRD_PARTY = {"psutil", "setproctitle"}


def imported(path):
    """Return the modules that a file imports, relative ones with their dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SUPERVISOR, ids=name)
def test_the_supervisor_imports_the_standard_library_and_two_packages_only(path):
    if path.name == "database.py":
        pytest.skip("the one seam")

    roots = {m.partition(".")[0] for m in imported(path) if not m.startswith("..")}

    assert roots - set(sys.stdlib_module_names) - THIRD_PARTY <= {""}


@pytest.mark.parametrize("path", APP, ids=name)
def test_only_commands_that_run_tasks_import_the_supervisor(path):
    importing = [m for m in imported(path) if "supervisor" in m.split(".")]

    assert not importing or "commands" in path.parts


@pytest.mark.parametrize("path", SUPERVISOR, ids=name)
def test_imports_within_the_supervisor_are_relative(path):
    absolute = [m for m in imported(path) if m.startswith("background_task.supervisor")]

    assert not absolute


def test_every_module_is_checked():
    assert len(SUPERVISOR) > 10
    assert len(APP) > 10


def test_the_supervisor_refuses_its_bare_name():
    sys.modules.pop("supervisor", None)

    with pytest.raises(ImportError, match=r"background_task\.supervisor"):
        __import__("supervisor")
