"""How is PostgreSQL kept from reading whole tables for a few rows?"""

import contextlib
from collections.abc import Iterator

from django.db import connections, transaction

# PostgreSQL thinks that a limit is soon reached by reading a table from its beginning,
# or by reading another index and sorting; which is so only where what is looked for is
# spread evenly, and the table has been analyzed.
_PLANS = (
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_bitmapscan = off",
    "SET LOCAL enable_sort = off",
    "SET LOCAL jit = off",
)


@contextlib.contextmanager
def by_index(alias: str) -> Iterator[None]:
    """Have PostgreSQL read by index; in a transaction of the caller's, as it likes."""
    connection = connections[alias]
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        yield
        return
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        for statement in _PLANS:
            cursor.execute(statement)
        yield
