"""Which names of tasks does this project register, and which was meant?"""

import difflib
import functools
from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _


def registered() -> frozenset[str] | None:
    """Return the names of its tasks; None if some of them can't be imported."""
    from .tasks import tasks  # which builds on modules that ask here

    return None if failure() else frozenset(tasks._tasks)


def why_no_runner(name: str) -> str:
    """Say of a name that is not registered that nobody runs its tasks, or return "".

    So of one that is, and if it is not known.
    """
    known = registered()
    if known is None or name in known:
        return ""
    text = _("No tasks.py here registers %(name)s: no runner with this code takes it.")
    return text % {"name": name}


def queues() -> set[str]:
    """Return the queues that its tasks name, of those that can be imported."""
    from .tasks import tasks

    failure()
    return {proxy.queue for proxy in tasks._tasks.values() if proxy.queue}


@functools.cache
def failure() -> Exception | None:
    """Import the project's tasks, once in a process; return what that has raised."""
    from .tasks import autodiscover

    try:
        autodiscover()
    except Exception as error:
        return error
    return None


def nearest(
    said: Any, known: Iterable[str], most: int = 1, cutoff: float = 0.6
) -> list[str]:
    """Return which of these names come near to what was said, the nearest one first.

    The last part of a dotted name is as near as can be.
    """
    names = list(known)
    ends = [name for name in names if name.endswith(f".{said}")]
    return ends[:most] or difflib.get_close_matches(str(said), names, most, cutoff)


def meant(said: Any, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return the `nearest` ones in quotes, such as `'mail' or 'mails'`, or ""."""
    return " or ".join(map(repr, nearest(said, known, most, cutoff)))
