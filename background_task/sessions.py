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

logger = logging.getLogger("background_task.tasks")


def session_of(connection: Any) -> dict[str, Any] | None:
    """Name the session that a new connection has; None: it is none of a server's.

    By its number, and by what tells it from a later one of the same number.
    """
    try:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_backend_pid(), extract(epoch FROM backend_start)::text "
                    "FROM pg_stat_get_activity(pg_backend_pid())"
                )
                number, since = cursor.fetchone()
        elif connection.vendor == "mysql":
            number, since = connection.connection.thread_id(), str(time.time())
        else:
            return None
    except Exception:  # a task must not fail of it
        logger.debug("The session of %s is not known", connection.alias, exc_info=True)
        return None
    return {"alias": connection.alias, "number": int(number), "since": str(since)}


def end_session(session: Mapping[str, Any]) -> bool:
    """End a session if it is there; return whether it was.

    What goes wrong with it is logged: it ends by itself, late.
    """
    try:
        connection = connections[session["alias"]]
        return _end(connection, session["number"], session["since"])
    except Exception as error:
        logger.warning(
            "The session %s of a stopped task on database %s could not be ended: %s",
            session.get("number"),
            session.get("alias"),
            " ".join(str(error).split()),
        )
        return False


def _end(connection: Any, number: int, since: str) -> bool:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid = %s AND extract(epoch FROM backend_start)::text = %s",
                [number, since],
            )
            return cursor.fetchone() is not None
        if connection.vendor == "mysql":
            return _kill(cursor, number, float(since))
    return False


def _kill(cursor: Any, number: int, since: float) -> bool:
    """End a session of MySQL, whose numbers begin anew when the server does."""
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Uptime'")
    _, uptime = cursor.fetchone()
    if time.time() - float(uptime) > since:
        return False
    try:
        cursor.execute(f"KILL {number:d}")
    except Error as error:
        if error.args and error.args[0] == _NO_SUCH_THREAD:  # it has ended by itself
            return False
        raise
    return True
