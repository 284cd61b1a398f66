"""What runs is asked for its output or its stack, and answers."""

import time
from collections.abc import Callable
from typing import Any

from django.db import router
from django.utils.translation import gettext as _

from background_task import control, leases
from background_task.models import Runner, Task

PATIENCE = 10.0  # seconds until we say that nobody answers
_LOOK_EVERY = 0.2  # seconds


def ask(verb: str, request: Callable[[int, str], None], task: Task, by: str) -> Any:
    """Ask a task that runs and return its answer; None: there was none in time.

    Nor is there one any more if its try has ended meanwhile.
    """
    control.forget(verb, task.pk)  # an answer to somebody else may be an old one
    request(task.pk, by)
    try:
        give_up_at = time.monotonic() + PATIENCE
        while (answer := control.answer(verb, task.pk)) is None:
            if time.monotonic() > give_up_at or not is_running(task.pk):
                return None
            time.sleep(_LOOK_EVERY)
        return answer
    finally:
        control.forget(verb, task.pk)


def is_running(pk: int) -> bool:
    """Does somebody hold the task?"""
    rows = Task.objects.using(router.db_for_write(Task))
    return rows.filter(pk=pk, locked_by__gt="").exists()


def why_silent(task: Task) -> str:
    """Say why nothing may be heard of a task that runs, as far as its row tells."""
    owner = task.locked_by or ""
    about: dict[str, Any] = {"task": task.with_id(), "owner": owner}
    if owner.isdecimal():
        text = _(
            "Task %(task)s is run by process %(owner)s, an in-process runner or one of "
            "1.2.8, which can't be asked."
        )
        return text % about
    alias = router.db_for_write(Task)
    runner = Runner._base_manager.using(alias).filter(pk=owner).first()
    if runner is None:
        text = _(
            "Task %(task)s is held by %(owner)s, which is no runner that is known: "
            "another gives it back in a moment."
        )
        return text % about
    about |= {"runner": runner, "version": runner.version, "seconds": PATIENCE}
    if runner.slots is None:
        text = _(
            "Task %(task)s is run by %(runner)s of version %(version)s, which can't be "
            "asked."
        )
    elif leases.lapsed().filter(pk=owner).exists():
        text = _(
            "Task %(task)s is held by %(runner)s, whose lease has run out: it hangs or "
            "is dead, and another gives the task back soon."
        )
    else:
        text = _(
            "Nothing was heard of task %(task)s within %(seconds)d s, from %(runner)s: "
            "it may have been claimed just now, and not have begun."
        )
    return text % about
