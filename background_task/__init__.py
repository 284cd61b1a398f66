"""A database-backed task queue for Django; every task in a process of its own."""

from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"

if TYPE_CHECKING:
    from .current import current_task as current_task
    from .tasks import background as background

__all__ = ["__version__", "background", "current_task"]


def __getattr__(name: str) -> Any:
    """Import `background` on first use: the package alone touches no settings."""
    if name == "current_task":
        from .current import current_task

        return current_task
    if name == "background":
        from .tasks import background

        return background
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
