"""The arrows between the packages point one way: a diagram that can fail."""

import ast
import subprocess
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
    if path.name.startswith("database"):
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


@pytest.mark.parametrize(
    "module",
    [
        "background_task.supervisor.database",
        "background_task.management.commands._one_task",
    ],
)
def test_what_a_bookkeeper_is_named_can_be_imported_before_django_is_set_up(module):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {module}"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


def test_every_module_is_checked():
    assert len(SUPERVISOR) > 10
    assert len(APP) > 10


def test_the_supervisor_refuses_its_bare_name():
    sys.modules.pop("supervisor", None)

    with pytest.raises(ImportError, match=r"background_task\.supervisor"):
        __import__("supervisor")


@pytest.mark.parametrize("path", [*SUPERVISOR, *APP], ids=name)
def test_nothing_that_was_written_elsewhere_is_made_into_code_or_objects(path):
    """But for the dotted names of `entry.named`, which are ours and our caller's."""
    makers = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "imp", "yaml"}
    channels = {"Queue", "SimpleQueue", "Pipe", "Manager", "Pool", "Listener"}
    called = [n.func for n in ast.walk(ast.parse(path.read_text())) if is_call(n)]
    names = {func.id for func in called if isinstance(func, ast.Name)}
    attributes = {func.attr for func in called if isinstance(func, ast.Attribute)}
    dotted = {"import_string", "import_module"} & (names | attributes)
    of_multiprocessing = "multiprocessing" in set(imported(path))

    assert not makers & {module.partition(".")[0] for module in imported(path)}
    assert not {"eval", "exec", "compile", "__import__"} & names
    assert not dotted or path.name == "entry.py"
    assert not of_multiprocessing or not channels & (names | attributes)


def is_call(node):
    return isinstance(node, ast.Call)
