"""A database-backed task queue for Django; every task in a process of its own."""

from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"

if TYPE_CHECKING:
    from .tasks import background as background

__all__ = ["__version__", "background"]


def __getattr__(name: str) -> Any:
    """Import `background` on first use: the package alone touches no settings."""
    if name == "background":
        from .tasks import background

        return background
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
