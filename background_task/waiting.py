"""How long may a call to the database take, where a lease is to be renewed in time?"""

from collections.abc import Callable, Iterable
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .sessions import is_pooled

_LOCK_WAIT = 2.0  # seconds at most for a row that another holds; others wait behind us
_IDLE = 0.5  # of those seconds: an open transaction in which nothing is said ends


def limit(connection: BaseDatabaseWrapper, seconds: float) -> None:
    """Have no call to the database wait longer than this: a lease is to be renewed."""
    options = connection.settings_dict.setdefault("OPTIONS", {})
    whole = max(1, int(seconds))
    if connection.vendor == "postgresql":
        hosts = 1 + str(connection.settings_dict["HOST"]).count(",")
        options["connect_timeout"] = max(1, int(seconds / hosts))  # it is for each
        options["tcp_user_timeout"] = int(seconds * 1000)
    elif connection.vendor == "mysql":
        for name in ("connect_timeout", "read_timeout", "write_timeout"):
            options[name] = whole
    elif connection.vendor == "sqlite":
        options["timeout"] = seconds
        # A transaction that begins with a read can fail at its first write without
        # waiting; the bookkeeper's begin with the write lock.
        options["transaction_mode"] = "IMMEDIATE"


def impose(
    connection: Any,
    seconds: float,
    plans: Iterable[str] = (),
    on_shared: Callable[[], None] | None = None,
) -> None:
    """Have a new connection wait no longer than so many seconds, and plan by `plans`.

    They are statements `SET name = value`. Behind a pooler another client may have the
    session next: there all is set in each transaction, and ends with it. `on_shared` is
    called when it turns out that the pooler gives sessions away between transactions.
    """
    settings = [*session_limits(connection, seconds), *plans]
    wrappers = connection.execute_wrappers
    wrappers[:] = [one for one in wrappers if not isinstance(one, _EachTransaction)]
    if is_pooled(connection):
        wrappers.insert(0, _EachTransaction(settings, on_shared))
        return
    with connection.cursor() as cursor:
        for statement in settings:
            cursor.execute(statement)


class _EachTransaction:
    """Sets something at the beginning of each transaction, and until its end only.

    It is an `execute_wrapper` of Django's. What would have run in no transaction runs
    in one of its own.
    """

    def __init__(
        self, settings: Iterable[str], on_shared: Callable[[], None] | None
    ) -> None:
        pairs = (one.removeprefix("SET ").split(" = ") for one in settings)
        calls = [f"set_config('{name}', '{value}', true)" for name, value in pairs]
        self._begin = ", ".join(["SELECT pg_backend_pid()", *calls])
        self._on_shared = on_shared
        self._session: int | None = None  # that was seen last

    def __call__(
        self, execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        connection = context["connection"]
        if not connection.get_autocommit():
            self._see_to(connection)
            return execute(sql, params, many, context)
        with transaction.atomic(using=connection.alias):
            self._see_to(connection)
            return execute(sql, params, many, context)

    def _see_to(self, connection: Any) -> None:
        """Set it, if nothing has been said in the transaction yet."""
        raw = connection.connection
        if raw.info.transaction_status:  # 0: idle
            return
        with connection.wrap_database_errors, raw.cursor() as cursor:
            cursor.execute(self._begin)
            session, *_ = cursor.fetchone()
        former, self._session = self._session, session
        if former not in (None, session) and self._on_shared:
            self._on_shared()


def session_limits(connection: Any, seconds: float) -> list[str]:
    """Return the statements with which a session waits no longer than so many seconds.

    For what another has locked it waits still less: others wait behind us. And
    when the connection is lost, and the server has not heard of it, the session that is
    left must not hold its rows, that of the runner among them, until TCP gives up. A
    second at least: a busy host may keep us waiting for so long.
    """
    lock_wait, idle = min(_LOCK_WAIT, seconds / 3), max(1.0, seconds * _IDLE)
    if connection.vendor == "postgresql":
        return [
            f"SET statement_timeout = {int(seconds * 1000)}",
            f"SET lock_timeout = {int(lock_wait * 1000)}",
            f"SET idle_in_transaction_session_timeout = {int(idle * 1000)}",
        ]
    if connection.vendor == "mysql":
        whole = max(1, int(lock_wait))
        limits = [
            f"SET SESSION innodb_lock_wait_timeout = {whole}",
            f"SET SESSION lock_wait_timeout = {whole}",  # for a table
        ]
        if connection.mysql_is_mariadb:
            limits.append(f"SET SESSION max_statement_time = {seconds:.3f}")
            limits.append(f"SET SESSION idle_transaction_timeout = {int(idle)}")
        else:
            limits.append(f"SET SESSION wait_timeout = {max(1, int(3 * seconds))}")
        return limits
    return []
