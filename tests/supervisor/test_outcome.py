"""Every outcome crosses processes unchanged, and says what a person wants to know."""

import json
import signal
import typing

import pytest

from background_task.supervisor.outcome import (
    Cancelled,
    Crashed,
    Failed,
    Lost,
    Outcome,
    OutOfMemory,
    Released,
    Succeeded,
    TimedOut,
    from_message,
    to_message,
)

MIB = 1024 * 1024

TEXTS = [
    (Succeeded(), ""),
    (Failed("Traceback …\nValueError: no\n"), "Traceback …\nValueError: no\n"),
    (Failed("never", permanent=True), "never"),
    (TimedOut(3600.0, "MAX_RUN_TIME"), "Stopped after 3600 s (MAX_RUN_TIME)"),
    (TimedOut(0.5, "MAX_RUN_TIME"), "Stopped after 0.5 s (MAX_RUN_TIME)"),
    (
        OutOfMemory(512 * MIB + 1, 512 * MIB, "--memory-limit"),
        "Stopped at 513 MiB of memory: over the limit of 512 MiB (--memory-limit)",
    ),
    (Crashed(3), "Crashed: the process exited with code 3 without a report"),
    (Crashed(0), "Crashed: the process exited with code 0 without a report"),
    (Crashed(-signal.SIGSEGV), "Crashed: the process was killed by SIGSEGV"),
    (
        Crashed(-signal.SIGKILL),
        "Crashed: the process was killed by SIGKILL, not by its supervisor; "
        "the kernel may have been out of memory",
    ),
    (Crashed(-40), "Crashed: the process was killed by signal 40"),
    (Crashed(None), "Crashed: its launcher died, and the task was killed with it"),
    (
        Crashed(1, while_starting=True),
        "Crashed while starting: the process exited with code 1 without a report",
    ),
    (
        Crashed(None, while_starting=True, text="it had not begun after 60 s"),
        "Crashed while starting: it had not begun after 60 s",
    ),
    (Lost("its supervisor is gone"), "Lost: its supervisor is gone"),
    (Cancelled("Ada"), "Cancelled by Ada"),
    (Released("the runner was stopped"), "Released: the runner was stopped"),
]


@pytest.mark.parametrize(("outcome", "text"), TEXTS, ids=repr)
def test_an_outcome_says_what_happened(outcome, text):
    assert str(outcome) == text


@pytest.mark.parametrize(("outcome", "text"), TEXTS, ids=repr)
def test_an_outcome_crosses_processes_unchanged(outcome, text):
    assert from_message(json.loads(json.dumps(to_message(outcome)))) == outcome


def test_every_outcome_is_tried_here():
    tried = {type(outcome) for outcome, _ in TEXTS}

    assert tried == set(typing.get_args(Outcome))
