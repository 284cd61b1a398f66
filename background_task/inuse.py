"""Which queues are in use, and which names of tasks?"""

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import connections, router
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from . import names
from .models import CompletedTask, Runner, Task
from .plans import by_index

_MOST = 200  # queues of a table among which the one that was meant is looked for


def queues_of(rows: QuerySet[Any], most: int) -> list[str]:
    """Return the queues that rows of a table are in, the first ones by name.

    Each is looked up in the index, as the first one after the one before: DISTINCT
    would read a million rows. Which rows they are is all the same; what has no queue is
    not told.
    """
    connection = connections[rows.db]
    table = connection.ops.quote_name(rows.model._meta.db_table)
    sql = f"""
        WITH RECURSIVE found(queue, place) AS (
            SELECT MIN(queue), 1 FROM {table}
            UNION ALL
            SELECT (SELECT MIN(t.queue) FROM {table} t WHERE t.queue > found.queue),
                place + 1
            FROM found WHERE found.queue IS NOT NULL AND place < %s
        )
        SELECT queue FROM found WHERE queue IS NOT NULL"""
    with connection.cursor() as cursor:
        cursor.execute(sql, [most])
        return [queue for (queue,) in cursor.fetchall()]


def doubts(queues: Iterable[str] = (), tasks: Iterable[str] = ()) -> list[str]:
    """Say of each queue, and of each name of tasks, that nobody knows it.

    None of a queue that something is or was in, or that is named by a runner or by a
    task of the project, nor of a name that the project registers, or that a task has or
    had. Each costs some steps in indexes.
    """
    with by_index(router.db_for_write(Task)):
        return [*_doubts_of_queues(queues), *_doubts_of_names(tasks)]


def _doubts_of_queues(queues: Iterable[str]) -> Iterator[str]:
    strange = [queue for queue in queues if not is_used(queue=queue)]
    if not strange:
        return
    named = _named_queues()
    known = named.union(*(queues_of(rows, _MOST) for rows in _tables()))
    for queue in strange:
        if queue not in named:
            text = _(
                "No task is or was in queue %(queue)s, and no runner and no task of "
                "this project names it."
            )
            yield text % {"queue": queue} + _did_you_mean(queue, known)


def _doubts_of_names(tasks: Iterable[str]) -> Iterator[str]:
    registered = names.registered()
    for name in tasks:
        if registered is None or name in registered or is_used(task_name=name):
            continue
        text = _(
            "No task is or was called %(name)s, and no tasks.py here registers it."
        )
        yield text % {"name": name} + _did_you_mean(name, registered)


def _did_you_mean(said: str, known: Iterable[str]) -> str:
    near = names.meant(said, sorted(known))
    return " " + _("Did you mean %(near)s?") % {"near": near} if near else ""


def _named_queues() -> set[str]:
    """Return the queues that runners serve by name, and that functions name."""
    rows = Runner._base_manager.using(router.db_for_write(Task))
    served = {queue for row in rows.only("queues") for queue in row.queues or ()}
    return served | names.queues()


def is_used(**columns: str) -> bool:
    """Return whether a task, be it waiting or completed, has this in its columns."""
    return any(rows.filter(**columns).exists() for rows in _tables())


def _tables() -> list[Any]:
    models: list[Any] = [Task, CompletedTask]
    return [model.objects.using(router.db_for_write(model)) for model in models]
