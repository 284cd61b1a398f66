"""Receivers of every signal that tell a journal what they hear, and from where.

Connected when TEST_SIGNALS names the journal: by `tests.app.tasks`, in every process
that imports the project's tasks.
"""

import json
import os

from background_task import signals
from background_task.models import Task

NAMES = [name for name in vars(signals) if name.startswith("task_")]


def connect(journal):
    for name in NAMES:
        getattr(signals, name).connect(_receiver(name, journal), weak=False)


def _receiver(name, journal):
    def receive(sender, signal, **named):
        task, completed = named.get("task"), named.get("completed_task")
        heard = {
            "signal": name,
            "sender": sender.__name__,
            "pid": os.getpid(),
            "arguments": sorted(named),
            "task": task.pk if task else named.get("task_id"),
            "name": (task or completed).task_name if task or completed else None,
            "attempts": (task or completed).attempts if task or completed else None,
            "row": Task.objects.filter(pk=task.pk).exists() if task else None,
            "failed": bool(completed and completed.failed_at),
        }
        with open(journal, "a") as file:
            file.write(json.dumps(heard) + "\n")
        raise RuntimeError("a receiver changes no outcome")

    return receive
