"""The small language of these tests: an old package, ours, a database between them.

A project written for 1.2.8 is run with either package, each command in a process of
its own. Only the database crosses.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from django.db import connection
from django.db.utils import ConnectionHandler

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NOT_EDITABLE = Path(__file__).parent / "not_editable"
PROJECT = HERE / "project_128"
UPSTREAM = "django-background-tasks==1.2.8"
DJANGO4 = "django4-background-tasks==1.2.10"
TABLES = ("background_task", "background_task_completedtask")


# Packages


def pip(*arguments):
    """Run pip; skip the test if it can't reach what it needs."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode and _is_offline(done.stderr):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _is_offline(text):
    signs = ("connection", "No matching distribution found", "Network is unreachable")
    return any(sign.lower() in text.lower() for sign in signs)


# The project


@dataclass(frozen=True)
class Side:
    """The project with one of the packages, on one database."""

    package: Path
    database: dict
    folder: Path
    auto_field: str = "AutoField"
    settings: dict = field(default_factory=dict)
    strict: bool = False
    python: Path = Path(sys.executable)

    @classmethod
    def of_ours(cls, database, folder):
        return cls(ROOT, database, folder, strict=True)

    @property
    def journal(self):
        return self.folder / "journal"

    @property
    def heard(self):
        return self.folder / "heard"

    def manage(self, *arguments, status=0):
        """Run a command of the project, which must exit so; return what it says."""
        said = self._run(PROJECT / "manage.py", *arguments, status=status)
        return "\n".join(filter(None, said))

    def do(self, *words):
        """Have `in_project` do something; return what each word's function returns."""
        said, _ = self._run(HERE / "in_project.py", *words)
        return json.loads(said)

    def _run(self, *command, status=0):
        with (self.folder / "errors").open("w+") as errors:
            done = subprocess.run(
                [self.python, *map(str, command)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=250,
            )
            errors.seek(0)
            complaints = errors.read()
            assert done.returncode == status, f"{command}\n{done.stdout}\n{complaints}"
        return done.stdout, complaints

    def _environment(self):
        return _environment() | {
            "PYTHONPATH": os.pathsep.join(
                map(str, [NOT_EDITABLE, self.package, PROJECT])
            ),
            "PYTHONWARNINGS": "error" if self.strict else "ignore",
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE": json.dumps(self.database),
            "JOURNAL": str(self.journal),
            "HEARD": str(self.heard),
            "AUTO_FIELD": self.auto_field,
            "SETTINGS": json.dumps(self.settings),
        }

    def with_ours(self):
        """Return the same project with our package."""
        return replace(self, package=ROOT, strict=True)

    def with_a_copy_in(self, folder):
        """Return the same project with a copy of its package, which may be changed."""
        shutil.copytree(self.package, folder, dirs_exist_ok=True)
        return replace(self, package=folder)

    def with_auto_field(self, name):
        """Return the same project with this DEFAULT_AUTO_FIELD, or with none."""
        return replace(self, auto_field=name)

    def with_settings(self, **settings):
        """Return the same project with these settings besides."""
        return replace(self, settings=settings)


def _environment():
    """Return this process's environment without what is for its own tests."""
    ours = ("TEST_", "PYTHON", "DJANGO_", "COVERAGE")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)}


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


# The database


@contextlib.contextmanager
def fresh_database():
    """Give the settings of an empty database on the server of this session."""
    here = connection.settings_dict
    names = ("ENGINE", "HOST", "PORT", "USER", "PASSWORD")
    database = {name: str(here[name]) for name in names}
    if connection.vendor == "sqlite":
        folder = tempfile.mkdtemp(prefix="upgrade-")
        yield database | {"NAME": os.path.join(folder, "project.sqlite3")}
        shutil.rmtree(folder)
        return
    name = f"background_task_upgrade_{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        yield database | {"NAME": name}
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")


@contextlib.contextmanager
def cursor_of(database):
    handler = ConnectionHandler({"default": database})
    try:
        with handler["default"].cursor() as cursor:
            yield cursor
    finally:
        handler["default"].close()


def rows_of(database):
    """Return {table: {id: {column: value}}} of both tables of tasks."""
    found = {}
    with cursor_of(database) as cursor:
        for table in TABLES:
            cursor.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in cursor.description]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
            found[table] = {row["id"]: row for row in rows}
    return found


def tables_of(database):
    """Return the names of the tables."""
    with cursor_of(database) as cursor:
        return cursor.db.introspection.table_names(cursor)


def storage_of(database):
    """Return where the tables of tasks are stored: a table that is rewritten moves."""
    marks = ", ".join(["%s"] * len(TABLES))
    statement = {
        "sqlite": "SELECT name, rootpage FROM sqlite_master WHERE name IN",
        "postgresql": "SELECT relname, pg_relation_filenode(oid) FROM pg_class "
        "WHERE relname IN",
        "mysql": "SELECT name, table_id FROM information_schema.innodb_sys_tables "
        "WHERE substring_index(name, '/', 1) = database() "
        "AND substring_index(name, '/', -1) IN",
    }[connection.vendor]
    with cursor_of(database) as cursor:
        cursor.execute(f"{statement} ({marks})", TABLES)
        found = dict(cursor.fetchall())
    assert len(found) == len(TABLES)
    return found
