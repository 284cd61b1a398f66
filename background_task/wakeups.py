"""How does a runner learn at once that something was enqueued, without asking?

PostgreSQL tells its listeners at the commit. SQLite has a number that changes with
every commit of another connection, which costs two microseconds to look at. Nothing
else tells: there a runner asks, quickly after something has happened and then slowly.
Every runner also asks now and then, so that what a wake-up has missed is found.
"""

from collections.abc import Callable
from typing import Any

from django.db import DEFAULT_DB_ALIAS, Error, connections

from .settings import app_settings

_CHANNEL = "background_task"
_CONTROL = "background_task_control"
_SQLITE_EVERY = 0.006  # seconds between two looks at SQLite's number


def notify(queue: str | None, using: str | None) -> None:
    """Tell the runners that listen, when the open transaction, if any, commits."""
    connection = connections[using or DEFAULT_DB_ALIAS]
    if connection.vendor == "postgresql" and app_settings.BACKGROUND_TASK_NOTIFY:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [_CHANNEL, queue or ""])


def call_runners(using: str) -> None:
    """Have every runner read, at the commit, what is asked of it."""
    connection = connections[using]
    if connection.vendor == "postgresql" and app_settings.BACKGROUND_TASK_NOTIFY:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [_CONTROL])


class Listener:
    """What a connection can hear; this one, of most databases, hears nothing."""

    every: float | None = None  # seconds between two calls of `heard`; None: see fileno

    def prepare(self, connection: Any) -> None:
        """Begin to listen; to be called with every new connection."""

    def fileno(self) -> int | None:
        """Return what becomes readable when there is something to hear."""
        return None

    def heard(self) -> bool:
        """Return whether something may have been enqueued since the last call."""
        return False

    def called(self) -> bool:
        """Return whether there are new orders since the last call, if it can tell."""
        return False


class PostgreSQLListener(Listener):
    """Hears NOTIFY, of the queues that are served."""

    def __init__(self, connection: Any, serves: Callable[[str | None], bool]) -> None:
        self._connection = connection
        self._serves = serves
        self._heard = self._called = False

    def prepare(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {_CHANNEL}")
            cursor.execute(f"LISTEN {_CONTROL}")
        raw = connection.connection
        if hasattr(raw, "add_notify_handler"):  # psycopg 3: what comes with an answer
            raw.add_notify_handler(lambda n: self._take(n.channel, n.payload))
        self._heard = True  # something may have come in between

    def fileno(self) -> int | None:
        raw = self._connection.connection
        return None if raw is None or raw.closed else int(raw.fileno())

    def heard(self) -> bool:
        self._read_what_came()
        heard, self._heard = self._heard, False
        return heard

    def called(self) -> bool:
        self._read_what_came()
        called, self._called = self._called, False
        return called

    def _read_what_came(self) -> None:
        try:
            self._read()
        except Exception as error:
            if not self._is_of_the_database(error):
                raise
            self._heard = True  # the next statement says what is wrong

    def _read(self) -> None:
        raw = self._connection.connection
        if raw is None or raw.closed:
            return
        if not hasattr(raw, "pgconn"):  # psycopg 2
            raw.poll()
            while raw.notifies:
                notice = raw.notifies.pop()
                self._take(notice.channel, notice.payload)
            return
        raw.pgconn.consume_input()
        while (notice := raw.pgconn.notifies()) is not None:
            said = notice.relname, notice.extra
            self._take(*(text.decode(errors="replace") for text in said))

    def _take(self, channel: str, payload: str) -> None:
        if channel == _CONTROL:
            self._called = True
        elif self._serves(payload or None):
            self._heard = True

    def _is_of_the_database(self, error: Exception) -> bool:
        return isinstance(error, (Error, self._connection.Database.Error))


class SQLiteListener(Listener):
    """Sees that another connection has committed, whatever that was."""

    every = _SQLITE_EVERY

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._version: int | None = None

    def prepare(self, connection: Any) -> None:
        self._version = None  # of another connection, it means nothing

    def heard(self) -> bool:
        raw = self._connection.connection
        if raw is None:
            return False
        try:
            (version,) = raw.execute("PRAGMA data_version").fetchone()
        except self._connection.Database.Error:  # another has it locked
            return True  # the next statement waits for it, or says what is wrong
        former, self._version = self._version, int(version)
        return self._version != former


def listener(connection: Any, serves: Callable[[str | None], bool]) -> Listener:
    """Return what this connection can hear of the queues that `serves` says yes to.

    It is asked for each, with None for a task without a queue.
    """
    if connection.vendor == "postgresql" and app_settings.BACKGROUND_TASK_NOTIFY:
        return PostgreSQLListener(connection, serves)
    if connection.vendor == "sqlite":
        return SQLiteListener(connection)
    return Listener()
