"""How does a list stay quick, and tell what it shows, with a million rows?

What is counted is estimated or has a limit, what is searched has an index, but for the
names of attempts, and a page costs the same number of queries however long it is.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Exists, Max, Model, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce, Left, Right
from django.db.models.lookups import In
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.functional import cached_property
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from background_task import redaction, states
from background_task.inuse import queues_of
from background_task.managers import Letters
from background_task.models import Attempt, CompletedTask, Control, row_id

if TYPE_CHECKING:
    BasePaginator = Paginator[Any]
else:
    BasePaginator = Paginator

# Rows up to which a list is counted; a table that is estimated to be smaller is, too.
MOST_COUNTED = 10_000
_MOST_QUEUES = 50
# Tries of an outcome up to which it is quicker to begin with them than with the tasks;
# with so many of a million either takes SQLite 0.2 s.
MOST_RARE = 50_000
_END = 300  # characters at each end of an error

_HASH = re.compile("[0-9a-f]{8,40}")


# Counting


class CountedPaginator(BasePaginator):
    """Pages of rows that are counted as far as it is cheap.

    A whole table is estimated by the database's statistics, except on SQLite, which has
    none and reads an index instead. Rows that are filtered are counted up to a limit.
    """

    is_estimate = is_limited = False

    @cached_property
    def count(self) -> int:
        """Return the number of rows, an estimate of it, or the limit."""
        rows: Any = self.object_list
        if rows.query.is_sliced:
            return int(rows.count())
        if not rows.query.where:
            connection = connections[rows.db]
            table = rows.model._meta.db_table
            if connection.vendor == "sqlite":
                return int(rows.order_by().values("pk").count())
            estimate = _estimate(connection, table)
            if estimate > MOST_COUNTED:
                self.is_estimate = True
                return estimate
        counted = int(rows.order_by().values("pk")[: MOST_COUNTED + 1].count())
        if counted > MOST_COUNTED:
            self.is_limited = True
            return MOST_COUNTED
        return counted

    @property
    def note(self) -> str:
        """Say that the count is none; nothing if it is one."""
        number = number_format(self.count, use_l10n=True, force_grouping=True)
        if self.is_estimate:
            return gettext("about %s") % number
        return gettext("more than %s") % number if self.is_limited else ""


def _estimate(connection: Any, table: str) -> int:
    """Return how many rows the database thinks a table has; 0 if it has no idea."""
    if connection.vendor == "postgresql":
        sql = "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)"
        name = connection.ops.quote_name(table)
    else:
        sql = (
            "SELECT table_rows FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name = %s"
        )
        name = table
    with connection.cursor() as cursor:
        cursor.execute(sql, [name])
        row = cursor.fetchone()
    return max(int(row[0] or 0), 0) if row else 0


class CountedList(ChangeList):
    """A list that says of its count what it is worth."""

    @property
    def count_note(self) -> str:
        """Say that the count is none; nothing if it is one."""
        return getattr(self.paginator, "note", "")

    @property
    def spoken(self) -> "_Spoken | CountedList":
        """This list as templates of Django's tell of it, with a count in words."""
        return _Spoken(self) if self.count_note else self


class _Spoken:
    def __init__(self, changelist: CountedList) -> None:
        self.changelist = changelist
        self.result_count = changelist.count_note

    def __getattr__(self, name: str) -> Any:
        return getattr(self.changelist, name)


class OrderedList(CountedList):
    """A list of a large table, in the order that an index gives."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Order by the first column that is asked for, and by no other.

        Of what is alike in that one, which may be nearly all, any other is a sort.
        """
        chosen = str(self.params.get(ORDER_VAR, "")).partition(".")[0]
        if not chosen:
            return list(super().get_ordering(request, queryset))
        self.params[ORDER_VAR] = chosen
        ordering = list(super().get_ordering(request, queryset.order_by()))
        if ordering[1:] == ["-pk"] and isinstance(ordering[0], str):
            ordering[1:] = _ties(ordering[0], connections[queryset.db].vendor)
        return ordering


def _ties(column: str, vendor: str) -> list[str]:
    """Return in which order an index has what is alike in its column.

    It ends with the id, except on PostgreSQL, which has it as it was written.
    """
    if vendor == "postgresql":
        return []
    return ["-pk" if column.startswith("-") else "pk"]


class TaskList(OrderedList):
    """A list of tasks, each with the last try that was recorded, or None."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, and the last tries of what is on it in two more queries."""
        super().get_results(request)
        with_last_tries(self.result_list)


class RunnerList(CountedList):
    """A list of runners, each with who asks it to drain, or None."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, and who is asked to drain in one more query."""
        super().get_results(request)
        _with_drains(self.result_list)


class TryList(OrderedList):
    """A list of tries, each with the two ends of its error; their texts are long."""

    def get_queryset(self, request: HttpRequest, *args: Any) -> QuerySet[Any]:
        """Read of each what a row shows."""
        tries: QuerySet[Any] = super().get_queryset(request, *args)
        ends = {"error_head": Left("error", _END), "error_tail": Right("error", _END)}
        tries = tries.annotate(**ends).defer("error", "output", "stack")
        return tries


def drained_by(runner: Any) -> str | None:
    """Return who asks a runner to drain, as its list has read it, or read it."""
    if not hasattr(runner, "drained_by"):
        _with_drains([runner])
    by: str | None = runner.drained_by
    return by


def _with_drains(runners: Iterable[Any]) -> None:
    """Give each runner its `drained_by`.

    Not by a join: MySQL compares these two columns by rules of different collations.
    """
    by_id = {runner.pk: runner for runner in runners}
    drains = Control.objects.filter(verb=Control.Verb.DRAIN, target__in=by_id)
    asked = dict(drains.values_list("target", "by"))
    for pk, runner in by_id.items():
        runner.drained_by = asked.get(pk)


def task_id_of(task: Any) -> int | None:
    """Return the id that a task has, or had while it waited and ran."""
    return task.task_id if isinstance(task, CompletedTask) else task.pk


def with_last_tries(tasks: Iterable[Any]) -> None:
    """Give each task its `last_try`, without the texts, which are long."""
    by_id = {task_id_of(task): task for task in tasks}
    ids = [task_id for task_id in by_id if task_id is not None]
    for task in by_id.values():
        task.last_try = None
    newest = Attempt.objects.order_by().filter(task_id__in=ids).values("task_id")
    newest_ids = [row["newest"] for row in newest.annotate(newest=Max("id"))]
    tries = Attempt.objects.filter(pk__in=newest_ids)
    for attempt in tries.defer("error", "output", "stack"):
        by_id[attempt.task_id].last_try = attempt


# Searching

SEARCH_HELP = _(
    "The beginning of a task's full name, such as shop.tasks.send; an id; or the first "
    "8 characters or more of a hash, of tasks whose arguments are not hidden."
)


def search(rows: QuerySet[Any], text: str, ids: Iterable[str], hash: str) -> Any:
    """Keep the rows that have this id or hash, or whose name begins so.

    Arguments are not searched: no index helps, and the answer would tell what is
    redacted. So would it by the hash of a task that has something to hide, which is
    not found by it. `ids` are the columns for a number, `hash` the one for hexadecimal
    digits.
    """
    text = text.strip()
    if not text:
        return rows
    if text.isdecimal():
        condition = Q(pk__in=[])
        for column in ids:
            condition |= Q(**{column: row_id(text)})
        return rows.filter(condition)
    if hash and _HASH.fullmatch(text):
        return rows.filter(_begins(rows.db, hash, text), _is_open(rows.db))
    return rows.filter(_begins(rows.db, "task_name", text))


def _is_open(database: str) -> Q:
    """Return a condition that those tasks meet whose arguments may all be read.

    To the letter, and as no index can answer it: one is to find the hash.
    """
    mysql = connections[database].vendor == "mysql"
    name = Letters("task_name") if mysql else Coalesce("task_name", Value(""))
    return Q(In(name, redaction.open_names()))


def _begins(database: str, column: str, text: str) -> Q:
    """Return a condition that this database answers by the column's index."""
    match connections[database].vendor:
        case "sqlite":  # its LIKE reads the table if it has an ESCAPE
            return Q(**{f"{column}__gte": text, f"{column}__lt": f"{text}\U0010ffff"})
        case "mysql":  # LIKE BINARY reads the table
            return Q(**{f"{column}__istartswith": text})
    return Q(**{f"{column}__startswith": text})


# Filters


class StateFilter(admin.SimpleListFilter):
    """Which state is it in?"""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        completed = issubclass(model_admin.model, CompletedTask)
        shown = states.OF_COMPLETED if completed else states.OF_TASKS
        return [(state.value, str(state.label)) for state in shown]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        state = self.value()
        if state not in dict(self.lookup_choices):
            return queryset
        completed = issubclass(queryset.model, CompletedTask)
        condition = states.in_state(state, timezone.now(), completed=completed)
        return queryset.filter(condition)


class QueueFilter(admin.SimpleListFilter):
    """Which queue is it in? Those that are in use, or none."""

    title = _("queue")
    parameter_name = "queue"

    _NONE = "-"  # after the prefix of a queue's name, which may be anything

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        queues = queues_of(model_admin.get_queryset(request), _MOST_QUEUES)
        found = [(f"={queue}", queue or gettext("(empty)")) for queue in queues]
        chosen = request.GET.get(self.parameter_name) or ""
        if chosen.startswith("=") and chosen[1:] not in queues:
            found.append((chosen, chosen[1:]))
        return [(self._NONE, gettext("none")), *found] if found else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        queue = value[1:] if value.startswith("=") else None
        return queryset.filter(queue=queue)


class EndedFilter(admin.SimpleListFilter):
    """Did it end lately?"""

    title = _("ended")
    parameter_name = "ended"

    _WITHIN = {
        "hour": (_("in the last hour"), timedelta(hours=1)),
        "day": (_("in the last 24 hours"), timedelta(days=1)),
        "week": (_("in the last 7 days"), timedelta(days=7)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, str(label)) for name, (label, _) in self._WITHIN.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in self._WITHIN:
            return queryset
        _, within = self._WITHIN[str(self.value())]
        return queryset.filter(run_at__gte=timezone.now() - within)


class OutcomeFilter(admin.SimpleListFilter):
    """Did a try of it end so?"""

    title = _("outcome of a try")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in Attempt.Outcome.choices]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Model]
    ) -> QuerySet[Model]:
        if self.value() is None:
            return queryset
        rows = Attempt.objects.using(queryset.db).order_by()
        tries = rows.filter(outcome=self.value())
        column = "task_id" if issubclass(queryset.model, CompletedTask) else "pk"
        if _are_few(tries):
            return queryset.filter(**{f"{column}__in": tries.values("task_id")})
        return queryset.filter(Exists(tries.filter(task_id=OuterRef(column))))


def _are_few(tries: QuerySet[Attempt]) -> bool:
    """Is it quicker to begin with them than to look at each task's, the newest first?

    The latter ends when a page is full: soon, if many tasks have such a try.
    """
    return tries.values("pk")[: MOST_RARE + 1].count() <= MOST_RARE
