"""What time is it, by the database? The one clock that all hosts share.

`timezone.now()` is the clock of this host, and `django.db.models.functions.Now` is in
the session's time zone on MySQL; neither will do for a lease between hosts.
"""

from typing import Any

from django.db.models import DateTimeField, Expression

_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f000"  # as Django writes a datetime


class DatabaseTime(Expression):
    """The database's clock in UTC, some seconds from now, microseconds and all."""

    output_field = DateTimeField()

    def __init__(self, seconds: float = 0.0) -> None:
        """`seconds` is added to the current moment; it may be negative."""
        super().__init__(output_field=DateTimeField())
        self.seconds = float(seconds)

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        raise NotImplementedError(f"No clock is known for {connection.vendor}")

    def params(self, connection: Any) -> tuple[Any, ...]:
        """Return the parameters that it has in a statement of this database."""
        as_sql = getattr(self, f"as_{connection.vendor}")
        return tuple(as_sql(None, connection)[1])

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any]]:
        return "(CLOCK_TIMESTAMP() + %s * INTERVAL '1 second')", (self.seconds,)

    def as_mysql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any]]:
        microseconds = round(self.seconds * 1_000_000)
        return "(UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND)", (microseconds,)

    def as_sqlite(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        shift = f"{self.seconds:+.3f} seconds"
        return "STRFTIME(%s, 'now', %s)", (_SQLITE_FORMAT, shift)
