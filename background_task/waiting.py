"""How long may a call to the database take, where a lease is to be renewed in time?"""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

_LOCK_WAIT = 2.0  # seconds at most for a row that another holds; others wait behind us


def limit(connection: BaseDatabaseWrapper, seconds: float) -> None:
    """Have no call to the database wait longer than this: a lease is to be renewed."""
    options = connection.settings_dict.setdefault("OPTIONS", {})
    whole = max(1, int(seconds))
    if connection.vendor == "postgresql":
        options["connect_timeout"] = whole
        options["tcp_user_timeout"] = int(seconds * 1000)
    elif connection.vendor == "mysql":
        for name in ("connect_timeout", "read_timeout", "write_timeout"):
            options[name] = whole
    elif connection.vendor == "sqlite":
        options["timeout"] = seconds
        # A transaction that begins with a read can fail at its first write without
        # waiting; the bookkeeper's begin with the write lock.
        options["transaction_mode"] = "IMMEDIATE"


def session_limits(connection: Any, seconds: float) -> list[str]:
    """Return the statements with which a session waits no longer than so many seconds.

    For a row that another has locked it waits still less: others wait behind us.
    """
    lock_wait = min(_LOCK_WAIT, seconds / 3)
    if connection.vendor == "postgresql":
        return [
            f"SET statement_timeout = {int(seconds * 1000)}",
            f"SET lock_timeout = {int(lock_wait * 1000)}",
        ]
    if connection.vendor == "mysql":
        whole = max(1, int(lock_wait))
        limits = [f"SET SESSION innodb_lock_wait_timeout = {whole}"]
        if connection.mysql_is_mariadb:
            limits.append(f"SET SESSION max_statement_time = {seconds:.3f}")
        return limits
    return []
