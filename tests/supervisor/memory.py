"""A queue without a database: jobs from a list, what happens to them into a file."""

import contextlib
import json
from pathlib import Path

from background_task.supervisor.job import Job, Limits
from background_task.supervisor.outcome import to_message


class MemoryQueue:
    """Lives in the bookkeeper's process; the journal is what tests see of it."""

    def __init__(self, environment, arguments, runner):
        self.journal = Path(arguments["journal"])
        self.waiting = [
            Job(
                id=number,
                name=job["target"],
                target=job["target"],
                args=job.get("args", []),
                claim=f"{number}:{runner.id}",
                limits=Limits(**job.get("limits", {})),
            )
            for number, job in enumerate(arguments["jobs"], 1)
        ]
        self.claimed = set()

    def write(self, **entry):
        with self.journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def open(self, *, register):
        self.write(event="open", register=register)

    def know(self, tasks):
        pass

    def transaction(self):
        return contextlib.nullcontext()

    def renew(self):
        return True

    def claim(self, n):
        jobs, self.waiting = self.waiting[:n], self.waiting[n:]
        self.claimed.update(job.claim for job in jobs)
        for job in jobs:
            self.write(event="claimed", id=job.id)
        return jobs

    def record(self, claim, outcome):
        if claim in self.claimed:
            self.claimed.discard(claim)
            self.write(
                event="recorded",
                id=int(claim.partition(":")[0]),
                says=str(outcome),
                **to_message(outcome),
            )

    def held(self):
        return set(self.claimed)

    def may_be_due(self):
        return bool(self.waiting)

    def dead_runners(self):
        return []

    def rescue(self, runner=None):
        return 0

    def close(self):
        self.write(event="closed")
