"""A few tasks that behave; the others are in `misbehaving`."""

import os

from background_task import background

from . import chaos, misbehaving, receivers  # noqa: F401

if "TEST_SIGNALS" in os.environ:
    receivers.connect(os.environ["TEST_SIGNALS"])

# What ran in this process, for tests of the in-process runner.
ran = []


@background
def note(*args, **kwargs):
    """Remember the arguments."""
    ran.append((args, kwargs))


@background(schedule=60)
def note_later(*args, **kwargs):
    ran.append((args, kwargs))


@background
def fail(message="a bad day"):
    raise ValueError(message)


@background
async def note_async(*args, **kwargs):
    ran.append((args, kwargs))


@background(queue="slow", max_run_time=90, memory_limit="512M")
def limited():
    ran.append(((), {}))
