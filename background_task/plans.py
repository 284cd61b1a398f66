"""How is PostgreSQL kept from reading whole tables for a few rows?"""

import contextlib
from collections.abc import Iterator

from django.db import connections, transaction

# PostgreSQL thinks that a limit is soon reached by reading a table from its beginning,
# or by reading another index and sorting; which is so only where what is looked for is
# spread evenly, and the table has been analyzed.
# What is off costs 1e10, and what costs so much is compiled first: 50 ms for a look at
# one row, where a small table is best read whole.
OFF = "enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"


@contextlib.contextmanager
def by_index(alias: str) -> Iterator[None]:
    """Have PostgreSQL read by index; in a transaction of the caller's, as it likes."""
    connection = connections[alias]
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        yield
        return
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        for setting in OFF:
            cursor.execute(f"SET LOCAL {setting} = off")
        yield
