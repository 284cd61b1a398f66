"""How is counted what may be very much, and told which row of a page is which?"""

import hashlib
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.utils import formats

COUNTED = 10_000  # rows: of more it is said that they are more


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are, or that there are more."""

    number: int
    is_all: bool = True

    @classmethod
    def of(cls, rows: QuerySet[Any]) -> "Count":
        """Count rows, but no further than to the one after `COUNTED`."""
        found = rows.order_by()[: COUNTED + 1].count()
        return cls(min(found, COUNTED), found <= COUNTED)

    def __bool__(self) -> bool:
        return self.number > 0

    def __str__(self) -> str:
        text = formats.number_format(self.number, force_grouping=True)
        return text if self.is_all else f"{text}+"


def slug(text: str) -> str:
    """Return letters and digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
