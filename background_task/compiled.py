"""How is what is asked again and again not built and compiled each time?

Building a query from a model and compiling it takes longer than the database takes to
answer, if the answer is a few rows by an index.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any

_TEXTS: dict[tuple[Hashable, ...], str] = {}


def statement(
    connection: Any,
    shape: tuple[Hashable, ...],
    query: Callable[[], Any],
    values: Sequence[Any],
) -> tuple[str, list[Any]]:
    """Return a statement's text, compiled at most once, and its parameters.

    `shape` is all that the text depends on, `query` builds the query for these
    `values`, which are in the order in which it names them.
    """
    params = [_adapted(connection, value) for value in values]
    key = (connection.alias, *shape)
    text = _TEXTS.get(key)
    if text is None:
        text, compiled = query().get_compiler(connection=connection).as_sql()
        if list(compiled) != params:
            raise AssertionError(f"{text}: {compiled} are not {params}")
        _TEXTS[key] = text
    return text, params


def insert(connection: Any, model: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, each of which has the same columns, in one statement.

    Plain values only, and no signals: what `bulk_create` does with the fields of each
    row takes longer than the database does.
    """
    quoted = connection.ops.quote_name
    columns = list(rows[0])
    values = f"({', '.join(['%s'] * len(columns))})"
    text = (
        f"INSERT INTO {quoted(model._meta.db_table)} "
        f"({', '.join(map(quoted, columns))}) VALUES {', '.join([values] * len(rows))}"
    )
    params = [_adapted(connection, row[name]) for row in rows for name in columns]
    with connection.cursor() as cursor:
        cursor.execute(text, params)


def _adapted(connection: Any, value: Any) -> Any:
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    return value
