"""Queues for `task_run`: a runner of one task, and a run that no books are kept of.

Called in the bookkeeper's process; see `supervisor.queue` for the methods.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django.utils import timezone

from background_task.supervisor.database import DatabaseQueue
from background_task.supervisor.evidence import Ended
from background_task.supervisor.job import Job
from background_task.supervisor.outcome import Released
from background_task.supervisor.queue import (
    Orders,
    QueueUnavailable,
    QueueUnusable,
    Runner,
)


class _OfOne(DatabaseQueue):
    """The parts that the two have in common: whatever else is due is not theirs."""

    def __init__(
        self, environment: dict[str, Any], arguments: dict[str, Any], runner: Runner
    ) -> None:
        super().__init__(environment, arguments, runner)
        self._failure = ""

    def claim(self, wanted: Any, held: Collection[str]) -> list[Job]:
        """Return the one job; what goes wrong with it does so once: see `may_be_due`.

        Nothing else can be claimed meanwhile, as a runner would.
        """
        if held or not wanted:
            return []
        try:
            return self._claim()
        except QueueUnavailable:
            raise
        except Exception as error:
            self._failure = f"It could not be claimed: {_text(error)}"
            raise

    def may_be_due(self, *args: Any) -> bool:
        """Is there something to be claimed? Asked before, and after a claim failed."""
        if self._failure:
            raise QueueUnusable(self._failure)
        try:
            return self._is_free()
        except QueueUnavailable:
            raise
        except Exception as error:
            text = f"It could not be looked for: {_text(error)}"
            raise QueueUnusable(text) from error

    def _claim(self) -> list[Job]:
        raise NotImplementedError

    def _is_free(self) -> bool:
        raise NotImplementedError

    def unknown_names(self) -> set[str]:
        return set()

    def unknown_queues(self) -> set[str]:
        return set()

    def dead_runners(self) -> list[Runner]:
        return []

    def rescue(self, runner: str | None = None) -> int:
        return 0

    def next_due(self, *args: Any) -> float | None:
        return None

    def prune(self, most: int) -> int:
        return 0


class OneTask(_OfOne):
    """The next try of one task, and no more, due or not; recorded as any other.

    `arguments` also have its id, `task`, and the `attempts` that were recorded before:
    once they are more, or the task is gone, there is nothing left to do.
    """

    def __init__(
        self, environment: dict[str, Any], arguments: dict[str, Any], runner: Runner
    ) -> None:
        super().__init__(environment, arguments, runner)
        self._writer.briefly = True  # the command itself shows the traceback
        self._only = {"pk": arguments["task"], "attempts": arguments["attempts"]}

    def open(self, *, register: bool) -> None:
        """Be known as one that takes nothing more: nobody is to count on it."""
        super().open(register=register)
        self.report([], draining=True)

    def report(self, running: list[dict[str, Any]], *, draining: bool) -> None:
        super().report(running, draining=True)

    def _claim(self) -> list[Job]:
        with self._translated():
            try:
                task = self._claims.claim_one(self._runner.id, **self._only)
            except self._leases.LeaseLost as error:
                raise QueueUnavailable(str(error)) from error
        return [] if task is None else [self._job(task)]

    def record(self, endings: Mapping[str, Ended]) -> None:
        """Record how it ended; it is one run more if its moment is still to come."""
        for claim, ended in endings.items():
            if not isinstance(ended.outcome, Released):
                with self._translated():
                    self._books.begun_ahead(self._parse(claim))
        super().record(endings)

    def orders(self, held: Collection[str]) -> Orders:
        """Return what is asked of it; no pause is, since the task was named."""
        orders = super().orders(held)
        orders.paused = []
        return orders

    def _is_free(self) -> bool:
        with self._translated():
            return bool(self._claims.is_free(**self._only))


class Replay(_OfOne):
    """One try with the arguments of a row; what comes of it is written to a file.

    `arguments` also have the `row`, columns of a task, and the path `ended`. Nothing
    is written to the database.
    """

    def __init__(
        self, environment: dict[str, Any], arguments: dict[str, Any], runner: Runner
    ) -> None:
        super().__init__(environment, arguments, runner)
        self._row: dict[str, Any] = arguments["row"]
        self._ended = Path(arguments["ended"])

    def open(self, *, register: bool) -> None:
        """There is nobody to be known to."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def renew(self) -> bool:
        return True

    def _claim(self) -> list[Job]:
        if not self._is_free():
            return []
        Task = self._models[0]
        return [self._job(Task(run_at=timezone.now(), **self._row))]

    def _is_free(self) -> bool:
        return not self._ended.exists()

    def record(self, endings: Mapping[str, Ended]) -> None:
        (ended,) = endings.values()
        part = self._ended.with_suffix(".part")
        part.write_text(json.dumps(ended.to_message()))
        part.rename(self._ended)

    def abandon(self, claim: str, text: str, *, succeeded: bool) -> None:
        raise AssertionError("nothing refuses to record it")

    def progress(self, claim: str, done: int, total: int | None, message: str) -> None:
        """Nobody looks."""

    def strays(self, held: Collection[str]) -> set[str]:
        return set()

    def orders(self, held: Collection[str]) -> Orders:
        return Orders()

    def called(self) -> bool:
        return False

    def heard(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return None

    def hear_every(self) -> float | None:
        return None

    def report(self, running: list[dict[str, Any]], *, draining: bool) -> None:
        """Nobody looks."""

    def answer(self, verb: str, claim: str, what: dict[str, Any]) -> None:
        """Nobody asks."""

    def close(self) -> None:
        self._connection.close()


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
