"""A loop logs without ever waiting for whoever reads the log."""

import fcntl
import logging
import os
import subprocess
import sys
import threading

import pytest

from background_task.supervisor import logrelay
from background_task.supervisor.logrelay import LogRelay

NAME = "tests.logrelay"


class Collecting(logging.Handler):
    """Keeps what it is given."""

    def __init__(self, level=logging.NOTSET):
        super().__init__(level)
        self.lines = []
        self.threads = set()

    def emit(self, record):
        self.lines.append(record.getMessage())
        self.threads.add(threading.current_thread().name)


class Stuck(Collecting):
    """Waits, until it is let go, as a write to a full pipe does."""

    def __init__(self):
        super().__init__()
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def emit(self, record):
        self.reached.set()
        self.let_go.wait(60)
        super().emit(record)


@pytest.fixture
def logger():
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers = []
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def handler(logger):
    handler = Collecting()
    logger.addHandler(handler)
    return handler


@pytest.fixture
def stuck(logger):
    handler = Stuck()
    logger.addHandler(handler)
    yield handler
    handler.let_go.set()


def test_what_is_logged_arrives_in_order_from_another_thread(logger, handler):
    with LogRelay(NAME):
        for number in range(100):
            logger.info("line %s", number)

    assert handler.lines == [f"line {number}" for number in range(100)]
    assert handler.threads == {"log relay"}


def test_afterwards_the_logger_is_as_before(logger, handler):
    with LogRelay(NAME):
        assert logger.handlers != [handler]

    assert logger.handlers == [handler]
    assert logger.propagate
    assert "log relay" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def below():
    """A logger below the one whose records are handed over, with a handler."""
    below = logging.getLogger(f"{NAME}.below")
    below.setLevel(logging.INFO)
    below.addHandler(handler := Collecting())
    yield below, handler
    below.handlers = []
    below.propagate = True


def test_handlers_of_loggers_below_are_called_in_the_thread_too(handler, below):
    logger, its_handler = below

    with LogRelay(NAME):
        logger.info("for both")

    assert its_handler.lines == handler.lines == ["for both"]
    assert its_handler.threads == {"log relay"}
    assert logger.handlers == [its_handler]


def test_what_does_not_propagate_from_below_stays_there(handler, below):
    logger, its_handler = below
    logger.propagate = False

    with LogRelay(NAME):
        logger.info("stays")

    assert its_handler.lines == ["stays"]
    assert handler.lines == []
    assert not logger.propagate


def test_levels_are_respected(logger):
    handler = Collecting(logging.ERROR)
    logger.addHandler(handler)

    with LogRelay(NAME):
        logger.debug("not of the logger's level")
        logger.info("not of the handler's level")
        logger.error("arrives")

    assert handler.lines == ["arrives"]


def test_what_propagates_goes_on_propagating(logger):
    above = Collecting()
    parent = logging.getLogger("tests")
    parent.addHandler(above)

    with LogRelay(NAME):
        logger.info("up")
    parent.removeHandler(above)

    assert above.lines == ["up"]


def test_what_does_not_propagate_stays(logger, handler):
    above = Collecting()
    parent = logging.getLogger("tests")
    parent.addHandler(above)
    logger.propagate = False

    with LogRelay(NAME):
        logger.info("stays")
    parent.removeHandler(above)

    assert handler.lines == ["stays"]
    assert above.lines == []


def test_a_handlers_filter_is_asked(logger, handler):
    handler.addFilter(lambda record: "secret" not in record.getMessage())

    with LogRelay(NAME):
        logger.info("a secret")
        logger.info("the rest")

    assert handler.lines == ["the rest"]


def test_an_exception_is_told_with_its_traceback(logger, caplog):
    with LogRelay(NAME):
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("It failed")

    assert "ValueError: no" in caplog.text


def test_whoever_logs_does_not_wait_and_what_is_dropped_is_counted(
    logger, stuck, monkeypatch
):
    monkeypatch.setattr(logrelay, "_ROOM", 3)

    with LogRelay(NAME):
        logger.info("stuck")
        stuck.reached.wait(30)
        for number in range(10):
            logger.info("line %s", number)
        stuck.let_go.set()
        while len(stuck.lines) < 4:
            stuck.reached.wait()
        logger.info("the last")

    assert stuck.lines == [
        "stuck",
        "line 0",
        "line 1",
        "line 2",
        "the last (7 log lines dropped)",
    ]


def test_one_whose_log_nobody_reads_can_leave(logger, stuck, monkeypatch):
    monkeypatch.setattr(logrelay, "_ROOM", 1)
    monkeypatch.setattr(logrelay, "_LAST_WAIT", 0.1)

    with LogRelay(NAME):
        logger.info("stuck")
        stuck.reached.wait(30)
        logger.info("in the only place")

    assert logger.handlers == [stuck]


CROWDED = """
import logging, sys
from background_task.supervisor import logrelay

logrelay._LAST_WAIT = 0.2
logger = logging.getLogger("crowded")
logger.addHandler(logging.StreamHandler(sys.stderr))
with logrelay.LogRelay("crowded"):
    logger.error("x" * int(sys.argv[1]))
"""


@pytest.mark.parametrize("room", [0, 8192])
def test_a_pipe_with_less_room_than_a_line_needs_keeps_nobody_from_leaving(room):
    """A pipe that is not quite full says it has room; a longer line blocks in it."""
    reader, writer = os.pipe()
    os.write(writer, b"." * (fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) - room))
    command = [sys.executable, "-c", CROWDED, "50000"]

    process = subprocess.Popen(command, stderr=writer)
    try:
        process.wait(15)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)

    assert process.returncode == 0
