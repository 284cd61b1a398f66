"""Who is alive, trusted until when?

A runner is trusted while its lease runs, by the database's clock. Its row is locked
in every transaction that claims, so that nobody can declare it dead in between.
"""

from datetime import datetime
from typing import Any

from django.db import connections, router, transaction
from django.db.models import BooleanField, Case, QuerySet, When
from django.utils import timezone

from .clock import DatabaseTime
from .compiled import statement
from .models import Runner, Task


class LeaseLost(Exception):
    """The lease has run out, or the runner's row is gone: nothing may be claimed."""


def register(runner_id: str, lease: float, **about: Any) -> None:
    """Make a runner known, trusted for `lease` seconds; a known one is left alone.

    `about` are the other columns of its row.
    """
    with transaction.atomic(using=_database()):
        if not _runners().filter(pk=runner_id).exists():
            row = Runner(
                id=runner_id,
                started_at=timezone.now(),
                trusted_until=DatabaseTime(lease),
                lease=lease,
                **about,
            )
            row.save(using=_database(), force_insert=True)


def renew(runner_id: str, lease: float) -> bool:
    """Trust a runner for `lease` seconds from now; False if its row is gone."""
    row = _runners().filter(pk=runner_id)
    return bool(row.update(trusted_until=DatabaseTime(lease)))


def report(runner_id: str, *, running: list[Any], draining: bool) -> None:
    """Write what people see of a runner."""
    _runners().filter(pk=runner_id).update(running=running, draining=draining)


def hold(runner_id: str) -> None:
    """Lock a runner's row until the transaction ends; raise LeaseLost if it lapsed."""

    def select() -> Any:
        row = _runners().filter(pk=runner_id, trusted_until__gt=DatabaseTime())
        return row.select_for_update().values_list("pk").query

    connection = connections[_database()]
    values = [runner_id, *DatabaseTime().params(connection)]
    with connection.cursor() as cursor:
        cursor.execute(*statement(connection, ("hold",), select, values))
        if cursor.fetchone() is None:
            raise LeaseLost("The lease has run out")


def lapsed() -> QuerySet[Runner]:
    """Return the runners whose lease has run out."""
    return _runners().filter(trusted_until__lte=DatabaseTime())


def trusted() -> Case:
    """Return, for `annotate`, whether a runner's lease still runs."""
    return Case(
        When(trusted_until__gt=DatabaseTime(), then=True),
        default=False,
        output_field=BooleanField(),
    )


def with_trust(runners: QuerySet[Runner]) -> QuerySet[Any]:
    """Return the runners, each with `is_alive`, and `now` by the database's clock."""
    return runners.annotate(is_alive=trusted(), now=DatabaseTime())


def silent(runner: Any) -> float | None:
    """Return the seconds since one of those was heard of; None: it does not say."""
    seen: datetime | None = runner.last_seen
    return None if seen is None else max(0.0, (runner.now - seen).total_seconds())


def sign_off(runner_id: str) -> bool:
    """Forget a runner that holds nothing; return whether it is forgotten."""
    with transaction.atomic(using=_database()):
        _runners().filter(pk=runner_id).select_for_update().first()
        if Task.objects.using(_database()).filter(locked_by=runner_id).exists():
            return False
        _runners().filter(pk=runner_id).delete()
        return True


def _runners() -> QuerySet[Runner]:
    return Runner._default_manager.using(_database())


def _database() -> str:
    return router.db_for_write(Task)
