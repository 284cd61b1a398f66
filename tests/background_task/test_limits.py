"""What is asked for is understood, or refused with its name and what can be."""

from datetime import timedelta
from decimal import Decimal

import pytest

from background_task.limits import (
    LimitRules,
    SettingError,
    parse_count,
    parse_memory,
    parse_seconds,
)
from background_task.supervisor.job import Limits

MIB, GIB = 1024**2, 1024**3


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (MIB, MIB),
        (512 * MIB, 512 * MIB),
        ("1048576", MIB),
        ("1024K", MIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("512 MB", 512 * MIB),
        ("512MiB", 512 * MIB),
        (" 2G ", 2 * GIB),
        ("1.5G", 1.5 * GIB),
        ("1T", 1024 * GIB),
        ("7000000B", 7_000_000),
    ],
)
def test_memory_is_a_number_of_bytes_or_a_text_with_a_unit(value, size):
    assert parse_memory(value, "X") == size


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        True,
        False,
        None,
        "",
        "0",
        "-1",
        512,  # surely meant to be MiB
        "1023K",
        "M",
        "12X",
        "1e9",
        "0.5",
        "1,5G",
        [],
        "٣x",
    ],
)
def test_memory_that_cannot_be_is_refused_by_name(value):
    with pytest.raises(SettingError, match=r"MEMORY is .*: it must be a positive"):
        parse_memory(value, "MEMORY")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("1.5", 1.5),
        (timedelta(minutes=2), 120.0),
        (Decimal("2.5"), 2.5),
    ],
)
def test_seconds_are_a_number_its_text_or_a_timedelta(value, seconds):
    assert parse_seconds(value, "X") == seconds


@pytest.mark.parametrize(
    "value",
    [0, -1, True, None, "", "soon", "nan", "inf", float("nan"), timedelta(0), [1]],
)
def test_seconds_that_cannot_be_are_refused_by_name(value):
    with pytest.raises(SettingError, match=r"TIME is .*: .*, more than 0"):
        parse_seconds(value, "TIME")


def test_seconds_may_have_another_least():
    assert parse_seconds(0, "X", least=0) == 0
    with pytest.raises(SettingError, match=r"X is 1: .*, 3 or more"):
        parse_seconds(1, "X", least=3)


@pytest.mark.parametrize(("value", "count"), [(1, 1), ("4", 4), (" 4 ", 4)])
def test_a_count_is_a_whole_number_or_its_text(value, count):
    assert parse_count(value, "X") == count


@pytest.mark.parametrize("value", [0, -1, True, None, "", "4.0", 1.5, "many"])
def test_a_count_that_cannot_be_is_refused_by_name(value):
    with pytest.raises(SettingError, match=r"WORKERS is .*: it must be a whole number"):
        parse_count(value, "WORKERS")


# Which limit holds


def limits(decorator, override, *, seconds=3600.0, memory=None, memory_ceiling=None):
    rules = LimitRules(
        seconds=seconds, memory=memory, memory_ceiling=memory_ceiling, grace=5.0
    )
    return Limits(**rules.limits(decorator, override))


def test_a_setting_holds_for_every_task():
    assert limits({}, {}, memory=GIB) == Limits(
        seconds=3600.0,
        seconds_name="MAX_RUN_TIME",
        memory=GIB,
        memory_name="BACKGROUND_TASK_MEMORY_LIMIT",
        grace=5.0,
    )


def test_a_decorator_stands_over_the_setting():
    found = limits({"max_run_time": 60, "memory_limit": "2G"}, {}, memory=GIB)

    assert found.seconds == 60
    assert found.seconds_name == "max_run_time of @background"
    assert found.memory == 2 * GIB
    assert found.memory_name == "memory_limit of @background"


def test_an_override_stands_over_the_decorator():
    found = limits(
        {"max_run_time": 60, "memory_limit": "2G"},
        {"max_run_time": timedelta(seconds=30), "memory_limit": "3G"},
        memory=GIB,
    )

    assert found.seconds == 30
    assert found.seconds_name == "max_run_time of BACKGROUND_TASK_OVERRIDES"
    assert found.memory == 3 * GIB
    assert found.memory_name == "memory_limit of BACKGROUND_TASK_OVERRIDES"


def test_each_limit_is_found_on_its_own():
    found = limits({"max_run_time": 60}, {"memory_limit": "3G"}, memory=GIB)

    assert found.seconds_name == "max_run_time of @background"
    assert found.memory_name == "memory_limit of BACKGROUND_TASK_OVERRIDES"


def test_the_command_lines_memory_is_a_ceiling():
    found = limits({}, {"memory_limit": "3G"}, memory_ceiling=GIB)

    assert found.memory == GIB
    assert found.memory_name == "--memory-limit"


def test_the_ceiling_raises_no_limit():
    found = limits({"memory_limit": "1G"}, {}, memory_ceiling=3 * GIB)

    assert found.memory == GIB
    assert found.memory_name == "memory_limit of @background"


def test_the_ceiling_limits_what_has_no_limit():
    assert limits({}, {}, memory_ceiling=GIB).memory == GIB


def test_without_any_there_is_no_limit():
    found = limits({"max_run_time": None}, {}, seconds=None)

    assert found.seconds is None
    assert found.memory is None


@pytest.mark.parametrize("limit", [{"max_run_time": 0}, {"memory_limit": "lots"}])
def test_a_limit_that_cannot_be_is_refused_with_its_source(limit):
    (name,) = limit
    with pytest.raises(SettingError, match=f"{name} of @background is "):
        limits(limit, {})
    with pytest.raises(SettingError, match=f"{name} of BACKGROUND_TASK_OVERRIDES is "):
        limits({}, limit)
