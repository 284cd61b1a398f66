"""Which errors of a database pass, and which stay until somebody mends something?"""

import re
import sqlite3
from collections.abc import Iterator

from django.db import DataError, Error, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

# PostgreSQL's sqlstates, their first two or all five characters.
_PASSING_STATES = (
    "08",  # the connection; 08007: nobody knows whether the commit was made
    "25006",  # read-only, as after a failover
    *("25P03", "25P04"),  # a transaction that idled, or lasted, too long was ended
    "40",  # deadlock, serialization; 40003: nobody knows
    "53",  # disk, memory, connections
    "55P03",  # lock not available
    "57",  # shut down, crashed, starting, cancelled, out of time
    "58",  # the server's input and output
)
# Of these, what comes from waiting for one row, or from being in another's way.
_BUSY_STATES = ("40001", "40P01", "55P03", "57014")

# MySQL's and MariaDB's errnos. Both call almost everything an OperationalError.
_PASSING_ERRNOS = {
    *(1040, 1203, 1226),  # too many connections, or of this user; its resources
    *(1042, 1043, 1129, 1158, 1159, 1160, 1161),  # the network
    *(1044, 1045, 1698),  # access denied, as while a password is changed
    *(1047, 1053, 1077, 1078, 1079, 1152, 1184, 1927),  # server or connection ends
    *(3032, 3168, 3169, 4031),  # the same, of MySQL 8: offline, session ended, idle
    *(3, 5, 20, 1021, 1026, 1030, 1037, 1038, 1041, 1114, 1135, 1180),  # disk, memory
    *(1205, 1206, 1213, 1317, 1969, 3024, 3572),  # locks, deadlock, timeouts, KILL
    *(1020, 1412, 3101),  # a snapshot, a table or a group that has changed meanwhile
    *(1290, 1792, 1836, 3989),  # read-only, as after a failover
}
_BUSY_ERRNOS = {1020, 1205, 1213, 1412, 1969, 3024, 3101, 3572}
# From here on errnos are the client library's: the server was not reached or is lost,
# but for a packet that is larger than the client may send.
_CLIENT_ERRNOS = range(2000, 3000)
_CLIENT_PACKET_TOO_LARGE = 2020
_DRIVERS = ("psycopg", "sqlite3", "MySQLdb", "pymysql")

# SQLite's primary result codes.
_PASSING_CODES = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
    *(sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_SCHEMA),
}
_PRIMARY_CODE = 0xFF  # the rest of the bits tell of kinds of it

# What reading a row raises, in Django or in its driver, when it holds what Python has
# not: a moment before year 1 or after 9999, PostgreSQL's infinity, MySQL's 0000-00-00.
UNREADABLE = (DataError, ValueError, OverflowError, TypeError, AttributeError)
# Of a text in SQLite that is none; it comes without a result code.
_NO_TEXT = "Could not decode to UTF-8"

# What databases and drivers quote of a row: PostgreSQL the whole of it.
_QUOTED = re.compile(
    r"\n(DETAIL|CONTEXT): .*|(?<=value: )'.*'|(?<=entry )'.*'(?= for)| with text '.*'",
    re.DOTALL,
)


def is_passing(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Is this error cured by waiting, as an outage is, and no mistake, which stays?

    By its sqlstate, errno or result code; without one, by its class: a client library
    has none for a connection that is lost or was never made.
    """
    if not isinstance(error, Error):
        return False
    if (state := _sqlstate(connection, error)) is not None:
        return state.startswith(_PASSING_STATES)
    if (errno := _errno(connection, error)) is not None:
        return _mysql_passes(errno)
    if (code := _result_code(connection, error)) is not None:
        return code in _PASSING_CODES
    kinds = OperationalError, InterfaceError
    return isinstance(error, kinds) and not str(error).startswith(_NO_TEXT)


def is_busy(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Is only some row in use by another, while the database is there?

    SQLite has one lock for all: there nothing else could be done meanwhile.
    """
    if not isinstance(error, Error):
        return False
    if (state := _sqlstate(connection, error)) is not None:
        return state.startswith(_BUSY_STATES)
    return _errno(connection, error) in _BUSY_ERRNOS


def is_unreadable(error: BaseException) -> bool:
    """Has it come of a row that holds what Python can't read?"""
    return isinstance(error, UNREADABLE) or str(error).startswith(_NO_TEXT)


def say_no_values(error: BaseException) -> None:
    """Take out of an error's text, and its causes', what it quotes of a row.

    It goes to the log and into rows that more people see than the arguments of tasks.
    Which constraint or column it is about stays.
    """
    for one in _chain(error):
        if not type(one).__module__.startswith(("django.db", *_DRIVERS)):
            continue
        told = [getattr(e, "diag", None) for e in (one, one.__cause__)]  # PostgreSQL's
        primary = [d.message_primary for d in told if d and d.message_primary]
        one.args = (*primary[:1],) or tuple(map(_without_values, one.args))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _without_values(part: object) -> object:
    return _QUOTED.sub(" ...", part) if isinstance(part, str) else part


def _sqlstate(connection: BaseDatabaseWrapper, error: Error) -> str | None:
    if connection.vendor != "postgresql":
        return None
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return None if state is None else str(state)


def _errno(connection: BaseDatabaseWrapper, error: Error) -> int | None:
    if connection.vendor != "mysql":
        return None
    errno = error.args[0] if error.args else None
    return errno if isinstance(errno, int) and errno > 0 else None


def _result_code(connection: BaseDatabaseWrapper, error: Error) -> int | None:
    if connection.vendor != "sqlite":
        return None
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return None if code is None else int(code) & _PRIMARY_CODE


def _mysql_passes(errno: int) -> bool:
    if errno in _CLIENT_ERRNOS:
        return errno != _CLIENT_PACKET_TOO_LARGE
    return errno in _PASSING_ERRNOS
