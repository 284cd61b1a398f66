"""A queue without a database: jobs from a list, what happens to them into a file.

The file, the journal, is all there is: a new bookkeeper reads it again from the top, a
transaction is one append to it, and the test reads it, or writes to it as another
runner would. Flag files beside it make the queue fail.
"""

import contextlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from background_task.supervisor.job import Job, Limits
from background_task.supervisor.outcome import Lost, to_message
from background_task.supervisor.queue import (
    Orders,
    QueueBusy,
    QueueUnavailable,
    QueueUnusable,
    Runner,
)


class MemoryQueue:
    """Lives in the bookkeeper's process; the journal is what tests see of it."""

    def __init__(self, environment, arguments, runner):
        self.journal = Path(arguments["journal"])
        self.down = self.journal.with_suffix(".down")
        self.unsure = self.journal.with_suffix(".unsure")
        self.jobs = dict(enumerate(arguments["jobs"], 1))
        self.unusable = arguments.get("unusable")
        self.broken = arguments.get("broken")  # whatever comes next, it dies of it
        # One in this place that is dead as soon as some end is recorded.
        self.dead = [Runner(*fields) for fields in arguments.get("dead", [])]
        self.gates = arguments.get("gates", {})  # by id: due when the file is there
        self.unrescuable = arguments.get("unrescuable")
        self.poisoned = arguments.get("poisoned", [])  # only Lost can be recorded
        self.cursed = arguments.get("cursed", [])  # only abandoned
        self.doomed = arguments.get("doomed", [])  # not even that
        self.runner = runner
        self.waiting = list(self.jobs)
        self.ended = False  # has a try's end been recorded?
        self.claims = {}  # claim: its job's id and its runner
        self.tries = Counter()
        self.fenced = set()
        self._taken_in = 0
        self._uncommitted = None
        self._news = []
        self.avoided, self.only = [], None
        self.pools = arguments.get("pools", [])

    def open(self, *, register):
        if self.unusable:
            raise QueueUnusable(self.unusable)
        self._catch_up()
        self._write(event="open", register=register, runner=self.runner.id)

    def know(self, tasks):
        pass

    @contextlib.contextmanager
    def transaction(self):
        self._catch_up()
        self._uncommitted = []
        try:
            yield
            self._commit()
        finally:
            self._uncommitted = None

    def renew(self):
        self._catch_up()
        if self.runner.id in self.fenced:
            return False
        self._write(event="renewed", runner=self.runner.id)
        return True

    def claim(self, wanted, held):
        self._catch_up()
        if self.runner.id in self.fenced:
            return []
        due = [n for pool, most in wanted.items() for n in self._due([pool])[:most]]
        return [self._claim(number) for number in due]

    def admit(self, avoided, only):
        self.avoided, self.only = avoided, only

    def _due(self, pools):
        gates = {number: Path(self.gates.get(str(number), "/")) for number in self.jobs}
        return [
            number
            for number in self.waiting
            if gates[number].exists()
            and self._is_admitted(number)
            and self._pool_of(number) in pools
        ]

    def _pool_of(self, number):
        queue = self.jobs[number].get("queue")
        return queue if queue in self.pools else None

    def _is_admitted(self, number):
        name = self.jobs[number]["target"]
        return name not in self.avoided and self.only in (None, name)

    def _claim(self, number):
        claim = f"{number}:{self.tries[number] + 1}:{self.runner.id}"
        self._write(event="claimed", id=number, claim=claim, runner=self.runner.id)
        job = self.jobs[number]
        return Job(
            id=number,
            name=job["target"],
            target=job["target"],
            args=job.get("args", []),
            claim=claim,
            queue=job.get("queue"),
            limits=Limits(**job.get("limits", {})),
        )

    def record(self, endings):
        self._catch_up()
        for claim, ended in endings.items():
            self._record(claim, ended.outcome, ended.evidence)

    def _record(self, claim, outcome, evidence):
        number, _ = self.claims.get(claim, (None, None))
        if number in [*self.cursed, *self.doomed]:
            raise ValueError(f"Task {number} is cursed")
        if number in self.poisoned and not isinstance(outcome, Lost):
            raise ValueError(f"Task {number} is poisoned")
        if number is not None:
            says, fields = str(outcome), to_message(outcome)
            self._write(
                event="recorded",
                id=number,
                claim=claim,
                says=says,
                evidence=asdict(evidence),
                **fields,
            )

    def end_sessions(self, sessions):
        for session in sessions:
            self._write(event="session ended", session=session)

    def progress(self, claim, done, total, message):
        number, _ = self.claims.get(claim, (None, None))
        self._write(event="progress", id=number, done=done, total=total, text=message)

    def abandon(self, claim, text, *, succeeded):
        self._catch_up()
        number, _ = self.claims[claim]
        if number in self.doomed:
            raise ValueError(f"Task {number} is doomed")
        self._write(event="abandoned", id=number, claim=claim, says=text)

    def strays(self, held):
        self._catch_up()
        own = self.runner.id
        ours = {claim for claim, (_, runner) in self.claims.items() if runner == own}
        return ours - set(held)

    def may_be_due(self, pools):
        self._catch_up()
        if self.broken:
            raise ValueError(self.broken)
        return bool(self._due(pools))

    def fileno(self):
        return None

    def hear_every(self):
        return None

    def heard(self):
        return False

    def called(self):
        return False

    def orders(self, held):
        """A file beside the journal has them, if it is there: of jobs by their ids."""
        path = self.journal.with_suffix(".orders")
        if not path.exists():
            return Orders()
        said = json.loads(path.read_text())
        if "busy" in said:
            raise QueueBusy(said["busy"])
        by_job = {str(job): c for c, (job, _) in self.claims.items() if c in held}
        return Orders(
            drain_by=said.get("drain_by"),
            stop={
                by_job[j]: by for j, by in said.get("stop", {}).items() if j in by_job
            },
            output=[by_job[j] for j in said.get("output", []) if j in by_job],
            stack=[by_job[j] for j in said.get("stack", []) if j in by_job],
        )

    def settle_orders(self, held):
        return 0

    def report(self, running, *, draining):
        self._catch_up()
        self._write(event="state", running=running, draining=draining)

    def answer(self, verb, claim, what):
        self._catch_up()
        number, _ = self.claims[claim]
        self._write(event="answer", id=number, verb=verb, what=what)

    def next_due(self, within, pools):
        return None

    def unknown_queues(self):
        return set()

    def unknown_names(self):
        return set()

    def dead_runners(self):
        self._catch_up()
        return self.dead if self.ended else []

    def rescue(self, runner=None):
        self._catch_up()
        if runner is not None:
            self._write(event="rescued", runner=runner)
        if self.unrescuable:
            raise ValueError(self.unrescuable)
        return 0

    def prune(self, most):
        return 0

    def news(self):
        news, self._news = self._news, []
        return news

    def close(self):
        self._catch_up()
        self._write(event="closed", runner=self.runner.id)

    # The journal

    def _catch_up(self):
        """Take in what is new in the journal, whoever has written it."""
        if self.down.exists():
            raise QueueUnavailable(f"{self.down.name} is there")
        with contextlib.suppress(FileNotFoundError), self.journal.open() as file:
            file.seek(self._taken_in)
            for line in file.read().splitlines():
                self._take_in(json.loads(line))
            self._taken_in = file.tell()

    def _take_in(self, entry):
        match entry:
            case {"event": "claimed", "id": number, "claim": claim, "runner": runner}:
                self.waiting.remove(number)
                self.tries[number] += 1
                self.claims[claim] = number, runner
            case {"event": "rescued", "runner": runner}:
                self.dead = [dead for dead in self.dead if dead.id != runner]
            case {"event": "recorded", "id": number, "claim": claim}:
                self.ended = True
                del self.claims[claim]
                if entry["outcome"] == "Released":
                    self.waiting.append(number)
            case {"event": "abandoned", "claim": claim}:
                del self.claims[claim]
            case {"event": "fenced", "runner": fenced}:
                self.fenced.add(fenced)
                for claim, (number, runner) in list(self.claims.items()):
                    if runner == fenced:
                        del self.claims[claim]
                        self.waiting.append(number)

    def _write(self, **entry):
        if self._uncommitted is None:
            self._append([entry])
        else:
            self._uncommitted.append(entry)

    def _commit(self):
        if self.down.exists():
            raise QueueUnavailable(f"{self.down.name} is there")
        self._append(self._uncommitted)
        self._news += [
            {"task": entry["id"], "says": entry["says"]}
            for entry in self._uncommitted
            if entry["event"] == "recorded" and entry["outcome"] != "Released"
        ]
        if self._uncommitted and self.unsure.exists():
            self.unsure.unlink()
            raise QueueUnavailable("nobody knows whether the commit was made")

    def _append(self, entries):
        with self.journal.open("a") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))
