"""What is a session on a database server called, and how does one end another's?

A process that is killed leaves its session behind: the server goes on with the query,
and with the locks, until it has something to say to the client.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from django.db import Error, connections

_NO_SUCH_THREAD = 1094  # of MySQL and MariaDB

# A session's number, and what tells it from another of that number.
_POSTGRESQL = (
    "SELECT pid, extract(epoch FROM backend_start)::text "
    "FROM pg_stat_get_activity(pg_backend_pid())"
)
_MYSQL = "SELECT CONNECTION_ID(), CONCAT(@@hostname, ':', @@port)"

logger = logging.getLogger("background_task.tasks")


def session_of(connection: Any) -> dict[str, Any] | None:
    """Name the session that a new connection has; None: there is none that is its own.

    By its number, and by what tells it from another one of the same number. Behind a
    pooler the server's session is not the client's: it may serve somebody else soon.
    """
    try:
        raw = connection.connection
        if connection.vendor == "postgresql":
            known, query = raw.info.backend_pid, _POSTGRESQL
        elif connection.vendor == "mysql":
            known, query = raw.thread_id(), _MYSQL
        else:
            return None
        with raw.cursor() as cursor:  # not the task's: it counts its own queries
            cursor.execute(query)
            number, which = cursor.fetchone()
    except Exception:  # a task must not fail of it
        logger.debug("The session of %s is not known", connection.alias, exc_info=True)
        return None
    if number != known:
        return None
    now = time.time()
    return {"alias": connection.alias, "number": number, "which": which, "at": now}


def is_pooled(connection: Any) -> bool:
    """Is a pooler between us and PostgreSQL, so that no session is ours to keep?

    Then the number that the protocol has told is the pooler's, and not the server's.
    """
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (number,) = cursor.fetchone()
    return bool(number != connection.connection.info.backend_pid)


def end_session(session: Mapping[str, Any]) -> bool | None:
    """End a session; return whether it was there; None: the server can't be asked.

    Then that is logged: the session ends by itself, late.
    """
    try:
        connection = connections[session["alias"]]
        with connection.cursor() as cursor:
            end = _END[connection.vendor]
            was_there = end(cursor, session["number"], session["which"], session["at"])
    except Exception as error:
        logger.warning(
            "The session %s of a stopped task on database %s could not be ended: %s",
            session.get("number"),
            session.get("alias"),
            " ".join(str(error).split()),
        )
        return None
    if was_there:
        logger.info("Ended a stopped task's session: %s", session)
    return was_there


def _terminate(cursor: Any, number: int, which: str, at: float) -> bool:
    cursor.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid = %s AND extract(epoch FROM backend_start)::text = %s",
        [number, which],
    )
    return cursor.fetchone() is not None


def _kill(cursor: Any, number: int, which: str, at: float) -> bool:
    """End a session of MySQL: of this server, and not of an earlier life of it."""
    cursor.execute(_MYSQL)
    _, server = cursor.fetchone()
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Uptime'")
    _, uptime = cursor.fetchone()
    if server != which or time.time() - float(uptime) > at:
        return False
    try:
        cursor.execute(f"KILL {number:d}")
    except Error as error:
        if error.args and error.args[0] == _NO_SUCH_THREAD:  # it has ended by itself
            return False
        raise
    return True


_END = {"postgresql": _terminate, "mysql": _kill}
