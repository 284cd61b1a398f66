"""What becomes of what the dead have left?"""

import logging
from typing import Any

from django.db import connections, models, transaction

from background_task import books, claims, leases
from background_task.models import Runner as RunnerRow
from background_task.models import Task
from background_task.outages import is_passing, say_no_values

from . import clock, processes
from .database_endings import Writer
from .evidence import Ended
from .outcome import Lost
from .queue import Runner

logger = logging.getLogger("background_task.tasks")

_MOST = 100  # tries of the dead in one transaction, so that the lease is renewed
# Of a lease, after an outage: others that it has silenced may be about to come back.
_DOUBT = 0.5
# Seconds between two looks for locks that no runner's end explains: their owners were
# never runners of ours, or have vanished from the table.
_STRANGERS_EVERY = 10.0


class Dead:
    """Finds runners that are dead, and records what they held as lost."""

    def __init__(
        self, alias: str, runner: Runner, lease: float, writer: Writer
    ) -> None:
        """`runner` is ours, `lease` its seconds."""
        self._alias = alias
        self._connection = connections[alias]
        self._runner = runner
        self._writer = writer
        self._doubt = lease * _DOUBT
        self._believes_at = 0.0  # when a lease that has run out means something
        self._strangers_at = 0.0
        self._left_alone: set[books.Claim] = set()  # they can't be settled

    def doubt(self) -> None:
        """The queue is out of reach, and not only for us: no lease could be renewed."""
        self._believes_at = clock.now() + self._doubt

    def neighbours(self) -> list[Runner]:
        """Return the runners of our place that are dead."""
        rows = list(
            self._runners()
            .filter(place=self._runner.place)
            .exclude(pk=self._runner.id)
            .only("pk", "host", "place", "pid", "pid_started")
        )
        if not rows:
            return []
        lapsed = set(self._lapsed().values_list("pk", flat=True))
        return [
            Runner(row.id, row.host, row.place, row.pid, row.pid_started)
            for row in rows
            if self._is_dead(row, lapsed=row.id in lapsed)
        ]

    def _is_dead(self, neighbour: Any, *, lapsed: bool) -> bool:
        match processes.presence(neighbour.pid, neighbour.pid_started):
            case "gone":
                return True
            case "hidden":  # nothing but its lease tells
                return lapsed
            case "there":  # with SQLite, a long wait for the one lock is normal
                return lapsed and self._connection.vendor != "sqlite"

    def rescue(self, runner: str | None = None) -> int:
        """Record what this dead runner held as lost, or what all of elsewhere did.

        Returns how many tries that were, about `_MOST` at a time: 0 if none are left.
        """
        if runner is not None:
            return self._lose(runner, "its runner died")
        lost = self._rescue_from_elsewhere()
        if not lost and self._strangers_at <= clock.now():
            self._strangers_at = clock.now() + _STRANGERS_EVERY
            if lost := self._rescue_from_strangers():
                self._strangers_at = 0.0  # there may be more
            claims.free_expired()  # what is left of expired locks is a pid's
        return lost

    def _rescue_from_elsewhere(self) -> int:
        lost = 0
        others = self._lapsed().exclude(place=self._runner.place)
        for pk, host in list(others.values_list("pk", "host")):
            why = f"nothing was heard of its runner on {host}"
            lost += self._lose(pk, why, lapsed=True)
            if lost >= _MOST:
                break
        return lost

    def _lapsed(self) -> Any:
        """Return the runners whose lease has run out, if that means anything now."""
        believes = self._believes_at <= clock.now()
        return leases.lapsed() if believes else self._runners().none()

    def _lose(self, owner: str, why: str, *, lapsed: bool = False) -> int:
        """Record what a dead owner held as lost, and forget it if it is a runner.

        Both or neither; one by one if something is refused, for the others' sake. One
        of which it is only known that its lease has `lapsed` may be heard of again.
        """
        try:
            return self._lose_together(owner, Lost(why), lapsed=lapsed)
        except Exception as error:
            if is_passing(self._connection, error):
                raise
            say_no_values(error)
            logger.exception("Recording what %s held as lost, one at a time", owner)
        tries = self._lose_each(owner, Lost(why), lapsed=lapsed)
        return tries + self._lose_together(owner, Lost(why), lapsed=lapsed)

    def _lose_together(self, owner: str, lost: Lost, *, lapsed: bool) -> int:
        with transaction.atomic(using=self._alias):
            if not self._is_still_dead(owner, lapsed=lapsed):
                return 0
            # What another has locked is a stranger's from now on, for a later round.
            theirs = self._held_by(owner, skip_locked=True)
            if theirs:
                self._writer.record(dict.fromkeys(theirs[:_MOST], Ended(lost)))
            if len(theirs) <= _MOST:
                self._runners().filter(pk=owner).delete()
        return len(theirs[:_MOST])

    def _held_by(self, owner: str, *, skip_locked: bool = False) -> list[books.Claim]:
        held = books.held_by(owner, skip_locked=skip_locked)
        return [claim for claim in held if claim not in self._left_alone]

    def _is_still_dead(self, owner: str, *, lapsed: bool) -> bool:
        """Lock its row, if it has one, until the transaction ends.

        Only then is it certain that it has not renewed its lease, and claimed, since it
        was found to have lapsed.
        """
        rows = leases.lapsed() if lapsed else self._runners()
        row = rows.filter(pk=owner).select_for_update()
        host = row.values_list("host", flat=True).first()
        self._writer.hosts[owner] = host or ""
        return host is not None or not lapsed

    def _lose_each(self, owner: str, lost: Lost, *, lapsed: bool) -> int:
        theirs = self._held_by(owner)
        return sum(
            self._lose_one(claim, lost, lapsed=lapsed) for claim in theirs[:_MOST]
        )

    def _lose_one(self, claim: Any, lost: Lost, *, lapsed: bool) -> bool:
        """Record it as lost, else abandon it, else leave it alone from now on."""
        try:
            with transaction.atomic(using=self._alias):
                if not self._is_still_dead(claim.locked_by, lapsed=lapsed):
                    return False
                self._writer.record({claim: Ended(lost)})
            return True
        except Exception as error:
            if is_passing(self._connection, error):
                raise
            say_no_values(error)
            logger.exception("Task %s could not be recorded as lost", claim.pk)
            text = f"{lost}; that could not be recorded: {error}"
        try:
            with transaction.atomic(using=self._alias):
                if not self._is_still_dead(claim.locked_by, lapsed=lapsed):
                    return False
                return bool(books.abandon(claim, text))
        except Exception as error:
            if is_passing(self._connection, error):
                raise
            say_no_values(error)
            logger.exception(
                "Task %s can't even be abandoned: it stays locked by %r, and this "
                "runner leaves it alone from now on",
                *claim[:2],
            )
            self._left_alone.add(claim)
            return False

    def _rescue_from_strangers(self) -> int:
        """Rows that are locked by what is no number and no runner: nobody has them."""
        known = self._runners().filter(pk=models.OuterRef("locked_by"))
        owners = (
            Task.objects.using(self._alias)
            .exclude(locked_by=None)
            .exclude(locked_by=self._runner.id)  # if its row is gone: fenced, not lost
            .exclude(models.Exists(known))
            .values_list("locked_by", flat=True)
            .distinct()
        )
        strangers = [owner for owner in owners if owner and not owner.isdecimal()]
        return sum(self._lose(owner, "its runner is unknown") for owner in strangers)

    def _runners(self) -> Any:
        return RunnerRow._base_manager.using(self._alias)
