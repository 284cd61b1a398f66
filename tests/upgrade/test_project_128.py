"""A project written for 1.2.8 runs unchanged: its tests, its signals, its admin."""

import pytest

from .tools import UPSTREAM, Side, fresh_database, lines

SUCCESS = ["task_started", "task_successful exports.tasks.note", "task_finished"]
RETRY = [
    "task_started",
    "task_error ValueError exports.tasks.fail",
    "task_rescheduled exports.tasks.fail attempts=1",
    "task_finished",
]
FAILURE = [
    "task_started",
    "task_error InvalidTaskError exports.tasks.give_up",
    "task_failed exports.tasks.give_up",
    "task_finished",
]

# What a task's own process says; the rest follows the record and is announced.
FROM_TASKS = ("task_started", "task_error")


@pytest.fixture
def old(old_packages, tmp_path):
    with fresh_database() as database:
        yield Side(old_packages(UPSTREAM), database, tmp_path)


@pytest.fixture
def ours(tmp_path):
    with fresh_database() as database:
        yield Side.of_ours(database, tmp_path)


def test_the_tests_of_the_project_are_right(old):
    old.manage("test", "exports")


def test_the_tests_of_the_project_pass(ours):
    ours.manage("test", "exports")


# Signals: first where upstream's order is known, then ours.


def test_the_old_package_sends_the_signals_in_this_order(old):
    old.manage("migrate", "--verbosity=0")

    old.do("signals", "run_due")

    assert lines(old.heard) == as_created() + SUCCESS + RETRY + FAILURE


def test_ours_sends_them_in_the_same_order_in_process(ours):
    ours.manage("migrate", "--verbosity=0")

    ours.do("signals")
    ours.manage("process_tasks", "--in-process", "--until-empty")

    assert lines(ours.heard) == as_created() + SUCCESS + RETRY + FAILURE


def test_ours_sends_them_all_from_other_processes(ours):
    ours.manage("migrate", "--verbosity=0")

    ours.do("signals")
    ours.manage("process_tasks", "--until-empty")

    heard = lines(ours.heard)[3:]
    from_tasks = [text for text in heard if text.startswith(FROM_TASKS)]
    announced = [text for text in heard if not text.startswith(FROM_TASKS)]
    assert lines(ours.heard)[:3] == as_created()
    assert from_tasks == [SUCCESS[0], *RETRY[:2], *FAILURE[:2]]
    assert announced == SUCCESS[1:] + RETRY[2:] + FAILURE[2:]
    for error, record in (RETRY[1:3], FAILURE[1:3]):
        assert heard.index(error) < heard.index(record)


def as_created():
    return [
        f"task_created exports.tasks.{name}" for name in ("note", "fail", "give_up")
    ]
