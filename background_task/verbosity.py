"""How much does `process_tasks -v` say, if the project configures no log?"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}
_FORMAT = "%(asctime)s %(levelname)s %(message)s"

logger = logging.getLogger("background_task")


def apply(verbosity: int) -> None:
    """Have our loggers say so much, in this process, unless LOGGING says how much."""
    level = _LEVELS.get(verbosity)
    if level is None or logger.level != logging.NOTSET or logger.hasHandlers():
        return
    logger.setLevel(level)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)


@contextmanager
def applied(verbosity: int) -> Iterator[None]:
    """Have our loggers say so much meanwhile."""
    level, handlers = logger.level, logger.handlers[:]
    apply(verbosity)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
