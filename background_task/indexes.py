"""An index over the tasks that wait, in the form that each database makes use of."""

from typing import Any

from django.db import models
from django.db.models import Q

WAITING = Q(locked_by=None, failed_at=None)

# Their names, which a claim has to say on MySQL.
BY_PRIORITY = "bgtask_waiting"
BY_QUEUE = "bgtask_waiting_queue"
BY_NAME = "bgtask_waiting_name"


class WaitingIndex(models.Index):
    """An index over the tasks that nobody holds and that have not failed.

    On PostgreSQL a partial one: what is held or has failed is not in it. Elsewhere the
    two columns lead it, and `IS NULL` finds its part. MySQL and MariaDB have no partial
    indexes; SQLite counts an index's condition for nothing when it chooses, and took
    the index of `locked_by` and a sort instead; PostgreSQL takes no order from `IS
    NULL`.
    """

    def create_sql(
        self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any
    ) -> Any:
        if schema_editor.connection.vendor == "postgresql":
            index = models.Index(fields=self.fields, name=self.name, condition=WAITING)
        else:
            fields = ["locked_by", "failed_at", *self.fields]
            index = models.Index(fields=fields, name=self.name)
        return index.create_sql(model, schema_editor, using, **kwargs)
