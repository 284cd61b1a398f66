"""Which errors of a database pass, and which stay until somebody mends something?"""

from django.db import DataError, Error
from django.db.backends.base.base import BaseDatabaseWrapper

# PostgreSQL's sqlstates, their first two or all five characters. What passes:
# connection, resources, operator, system, rollback (deadlock, serialization), lock not
# available, read-only after a failover.
_PASSING_STATES = ("08", "53", "57", "58", "40", "55P03", "25006")
# Of these, what comes from waiting for one row, or from being in another's way.
_BUSY_STATES = ("40", "55P03", "57014")

# MySQL and MariaDB call almost everything an OperationalError: errno that pass.
_PASSING_ERRNOS = {
    *(1040, 1203, 1226),  # too many connections, or of this user; its resources
    *(1042, 1043, 1129, 1158, 1159, 1160, 1161),  # the network
    *(1044, 1045, 1698),  # access denied, as while a password is changed
    *(1047, 1053, 1077, 1079, 1152, 1184, 1927),  # the server or the connection ends
    *(1021, 1030, 1037, 1038, 1041, 1114, 1135, 1180),  # disk, memory, threads
    *(1205, 1206, 1213, 1317, 1969, 3024, 3572),  # locks, deadlock, timeouts, KILL
    *(1290, 1792, 1836),  # read-only, as after a failover
}
_BUSY_ERRNOS = {1205, 1213, 1969, 3024, 3572}
# From here on errnos are the client library's: the server was not reached or is lost,
# but for a packet that is larger than the client may send.
_CLIENT_ERRNOS = range(2000, 3000)
_CLIENT_PACKET_TOO_LARGE = 2020

# What reading a row raises, in Django or in its driver, when it holds what Python has
# not: a moment before year 1 or after 9999, PostgreSQL's infinity, MySQL's 0000-00-00.
UNREADABLE = (DataError, ValueError, OverflowError, TypeError, AttributeError)


def is_passing(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Is this error cured by waiting, as an outage is, and no mistake, which stays?"""
    if not isinstance(error, Error):
        return False
    if (state := _sqlstate(connection, error)) is not None:
        return state.startswith(_PASSING_STATES)
    kind = type(error).__name__
    if kind == "InterfaceError":
        return True
    if kind != "OperationalError":
        return False
    if connection.vendor == "mysql":
        return _mysql_passes(_errno(error))
    return not str(error).startswith("no such ")


def is_busy(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Is only some row in use by another, while the database is there?

    SQLite has one lock for all: there nothing else could be done meanwhile.
    """
    if not isinstance(error, Error):
        return False
    if (state := _sqlstate(connection, error)) is not None:
        return state.startswith(_BUSY_STATES)
    return connection.vendor == "mysql" and _errno(error) in _BUSY_ERRNOS


def _sqlstate(connection: BaseDatabaseWrapper, error: Error) -> str | None:
    if connection.vendor != "postgresql":
        return None
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return None if state is None else str(state)


def _errno(error: Error) -> int | None:
    return error.args[0] if error.args and isinstance(error.args[0], int) else None


def _mysql_passes(errno: int | None) -> bool:
    if errno is None or errno in _PASSING_ERRNOS:
        return True
    return errno in _CLIENT_ERRNOS and errno != _CLIENT_PACKET_TOO_LARGE
