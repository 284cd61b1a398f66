"""What is asked of a run of `process_tasks`, by its options and by the settings?"""

import difflib
import math
import sys
from dataclasses import dataclass, replace
from typing import Any

from background_task import checks, policies
from background_task.limits import (
    LimitRules,
    SettingError,
    parse_count,
    parse_memory,
    parse_seconds,
)
from background_task.settings import app_settings, setting_name
from background_task.supervisor.admission import budget_of
from background_task.supervisor.container import Container
from background_task.supervisor.options import (
    ANNOUNCER,
    CLAIMED_AHEAD,
    CLAIMED_AHEAD_FOR_REUSE,
    Options,
)

START_METHODS = "template", "spawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a supervisor is to work, resolved once."""

    options: Options
    rules: LimitRules
    start_method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for, resolved once: times in seconds, no queues for all.

    `supervision` is None if no supervisor is wanted.
    """

    queues: list[str]
    sleep: float
    duration: float
    supervision: Supervision | None


def resolve(options: dict[str, Any]) -> Asked:
    """Resolve the options, or raise SettingError for one that cannot be."""
    return Asked(
        queues=_queues(options["queue"]),
        sleep=parse_seconds(options["sleep"], "--sleep"),
        duration=_duration(options),
        supervision=_supervision(options),
    )


def _queues(names: str | list[str] | None) -> list[str]:
    """Return the queues to serve; none means every queue."""
    queues = [names] if isinstance(names, str) else list(names or [])
    if any(not name.strip() for name in queues):
        raise SettingError("--queue has an empty name: leave it out for every queue")
    return queues


def check_settings() -> None:
    """Refuse what would stop the runner when it records its first failure."""
    for message in checks.check_settings():
        raise SettingError(f"{message.msg} {message.hint}")


def _supervision(options: dict[str, Any]) -> Supervision | None:
    if options["in_process"]:
        _refuse_limits(options)
        return None
    rules = _rules(options)
    return Supervision(
        options=_options(options, rules),
        rules=rules,
        start_method=_start_method(options),
    )


def _options(options: dict[str, Any], rules: LimitRules) -> Options:
    """Resolve what was asked for: the command line, else the settings."""
    workers, source = options.get("workers"), "--workers"
    if workers is None:
        workers, source = app_settings.workers, _workers_setting()
    container = Container()
    if workers == "auto":
        workers = container.processors()
    most, most_source = options.get("tasks_per_process"), "--tasks-per-process"
    if most is None:
        most_source = "BACKGROUND_TASK_TASKS_PER_PROCESS"
        most = app_settings.BACKGROUND_TASK_TASKS_PER_PROCESS
    tasks_per_process = parse_count(most, most_source)
    drain, drain_source = options.get("drain_timeout"), "--drain-timeout"
    if drain is None:
        drain_source = "BACKGROUND_TASK_DRAIN_TIMEOUT"
        drain = app_settings.BACKGROUND_TASK_DRAIN_TIMEOUT
    return Options(
        workers=parse_count(workers, source),
        ahead=_ahead(tasks_per_process),
        tasks_per_process=tasks_per_process,
        duration=_duration(options),
        until_empty=options["until_empty"],
        drain_timeout=parse_seconds(drain, drain_source, least=0),
        grace=_setting("BACKGROUND_TASK_GRACE", least=0),
        start_timeout=_setting("BACKGROUND_TASK_START_TIMEOUT"),
        lease=_setting("BACKGROUND_TASK_LEASE", least=1),
        memory=rules.limits({}, {})["memory"],
        memory_budget=_memory_budget(options, container),
        announcer=replace(
            ANNOUNCER, memory=rules.limits({}, {})["memory"], grace=rules.grace
        ),
    )


def _memory_budget(options: dict[str, Any], container: Container) -> int | None:
    budget, source = options.get("memory_budget"), "--memory-budget"
    if budget is None:
        budget = app_settings.BACKGROUND_TASK_MEMORY_BUDGET
        source = "BACKGROUND_TASK_MEMORY_BUDGET"
    if budget == "auto":
        return budget_of(container)
    return None if budget is None else parse_memory(budget, source)


def _ahead(tasks_per_process: int) -> int:
    """What a killed runner held is lost: not where one try is all that a task has."""
    if app_settings.BACKGROUND_TASK_MAX_ATTEMPTS == 1:
        return 0
    return CLAIMED_AHEAD if tasks_per_process == 1 else CLAIMED_AHEAD_FOR_REUSE


def _start_method(options: dict[str, Any]) -> str:
    method, source = options["start_method"], "--start-method"
    if method is None:
        source = "BACKGROUND_TASK_START_METHOD"
        method = app_settings.BACKGROUND_TASK_START_METHOD
    if method not in START_METHODS:
        raise SettingError(f"{source} is {method!r}: it must be one of {START_METHODS}")
    if method == "template" and sys.platform != "linux":
        raise SettingError(f"{source} is 'template', for Linux only: use 'spawn'")
    return str(method)


def _rules(options: dict[str, Any]) -> LimitRules:
    """Resolve the limits that do not depend on a task, and check those that do."""
    memory = app_settings.BACKGROUND_TASK_MEMORY_LIMIT
    ceiling = options.get("memory_limit")
    rules = LimitRules(
        seconds=_setting("MAX_RUN_TIME"),
        memory=None
        if memory is None
        else parse_memory(memory, "BACKGROUND_TASK_MEMORY_LIMIT"),
        memory_ceiling=None
        if ceiling is None
        else parse_memory(ceiling, "--memory-limit"),
        grace=_setting("BACKGROUND_TASK_GRACE", least=0),
        seconds_ceiling=None
        if options.get("max_run_time") is None
        else parse_seconds(options["max_run_time"], "--max-run-time"),
        nice=parse_count(
            app_settings.BACKGROUND_TASK_NICE, "BACKGROUND_TASK_NICE", least=0, most=19
        ),
    )
    _check_overrides()
    most_crashes = app_settings.BACKGROUND_TASK_MAX_CRASHES
    if most_crashes is not None:
        parse_count(most_crashes, "BACKGROUND_TASK_MAX_CRASHES")
    return rules


def _check_overrides() -> None:
    overrides: Any = app_settings.BACKGROUND_TASK_OVERRIDES
    known = set(policies.OVERRIDABLE)
    if not isinstance(overrides, dict):
        raise SettingError("BACKGROUND_TASK_OVERRIDES must be a dict of dicts")
    for name, override in overrides.items():
        if not isinstance(override, dict) or set(override) - known:
            raise SettingError(
                f"BACKGROUND_TASK_OVERRIDES[{name!r}] is {override!r}: it must be a "
                f"dict with no other keys than {', '.join(sorted(known))}"
                f"{_meant(override, known)}"
            )
        policies.check(override, f"{{}} of BACKGROUND_TASK_OVERRIDES[{name!r}]")


def _meant(override: Any, known: set[str]) -> str:
    """Say which limit was meant by each key that comes near to one."""
    if not isinstance(override, dict):
        return ""
    near = {
        key: difflib.get_close_matches(str(key), known, 1)
        for key in override
        if key not in known
    }
    return "".join(
        f"; {key}: did you mean {match[0]}?" for key, match in near.items() if match
    )


def _duration(options: dict[str, Any]) -> float:
    return parse_seconds(options["duration"], "--duration", least=-math.inf)


def _setting(name: str, least: float | None = None) -> float:
    return parse_seconds(getattr(app_settings, name), setting_name(name), least=least)


def _workers_setting() -> str:
    if app_settings.BACKGROUND_TASK_WORKERS is not None:
        return "BACKGROUND_TASK_WORKERS"
    return "BACKGROUND_TASK_ASYNC_THREADS"


def _refuse_limits(options: dict[str, Any]) -> None:
    for name in (
        "workers",
        "tasks_per_process",
        "memory_limit",
        "max_run_time",
        "memory_budget",
        "drain_timeout",
        "start_method",
    ):
        if options.get(name) is not None:
            raise SettingError(
                f"--{name.replace('_', '-')} does not go with --in-process, which runs "
                "one task at a time in this process and can limit nothing"
            )
