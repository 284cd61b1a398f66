"""What is asked of a run of `process_tasks`, by its options and by the settings?"""

import logging
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from background_task import checks, policies, probe
from background_task.limits import (
    LimitRules,
    SettingError,
    parse_count,
    parse_memory,
    parse_seconds,
)
from background_task.names import meant
from background_task.served import EVERYTHING, Served
from background_task.settings import app_settings, setting_name
from background_task.supervisor.admission import budget_of
from background_task.supervisor.container import Container
from background_task.supervisor.options import (
    ANNOUNCER,
    CLAIMED_AHEAD,
    CLAIMED_AHEAD_FOR_REUSE,
    OptionError,
    Options,
)
from background_task.supervisor.outcome import size_text

logger = logging.getLogger("background_task.tasks")

START_METHODS = "template", "spawn"
_SIZED = re.compile(r"(.*):([0-9]+)", re.DOTALL)  # a queue with slots of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a supervisor is to work, resolved once."""

    options: Options
    rules: LimitRules
    start_method: str
    heartbeat_file: str | None
    probe_port: int | None
    probe_host: str  # "" for every interface


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for, resolved once: times in seconds.

    `supervision` is None if no supervisor is wanted.
    """

    served: Served
    sleep: float
    duration: float
    supervision: Supervision | None


def resolve(options: dict[str, Any]) -> Asked:
    """Resolve the options, or raise SettingError for one that cannot be.

    Raises OptionError for one that cannot be had here and now.
    """
    return _asked(options, _queues(options), _heartbeat_file)


def resolve_for_one(options: dict[str, Any]) -> Asked:
    """The same for a run of one task: in whichever queue it is, and seen by no probe.

    What the project's settings say of that is said of its runners.
    """
    return _asked(options, _Queues(EVERYTHING, {}), lambda options: None)


def _asked(
    options: dict[str, Any],
    queues: "_Queues",
    heartbeat_file: Callable[[dict[str, Any]], str | None],
) -> Asked:
    return Asked(
        served=queues.served,
        sleep=parse_seconds(options["sleep"], "--sleep"),
        duration=_duration(options),
        supervision=_supervision(options, queues, heartbeat_file),
    )


@dataclass(frozen=True, slots=True)
class _Queues:
    """Which queues are to be served, and which of them with how many slots."""

    served: Served
    sizes: dict[str, int]

    @property
    def unsized(self) -> bool:
        """Are there queues without slots of their own, to share what is left?"""
        return not self.sizes or bool(self.served.queues.difference(self.sizes))


def _queues(options: dict[str, Any]) -> _Queues:
    """Resolve both options, or both settings if neither option is given."""
    said, excluded = options["queue"], options["exclude_queue"]
    names = "--queue", "--exclude-queue"
    if said is None and excluded is None:
        names = "BACKGROUND_TASK_QUEUES", "BACKGROUND_TASK_EXCLUDE_QUEUES"
        said = app_settings.BACKGROUND_TASK_QUEUES
        excluded = app_settings.BACKGROUND_TASK_EXCLUDE_QUEUES
        _check_list(said, names[0])
        _check_list(excluded, names[1])
    sizes = _sizes(_texts(said, names[0]), names[0])
    never = frozenset(_texts(excluded, names[1]))
    if both := sorted(never.intersection(sizes)):
        raise SettingError(
            f"{names[0]} and {names[1]} both name {', '.join(both)}: leave out the one "
            "or the other"
        )
    own = {name: size for name, size in sizes.items() if size is not None}
    return _Queues(Served(frozenset(sizes), never), own)


def _check_list(value: Any, source: str) -> None:
    is_list = isinstance(value, list | tuple | set | frozenset)
    if value is not None and not (is_list and all(isinstance(v, str) for v in value)):
        raise SettingError(
            f'{source} is {value!r}: it must be a list of texts, such as ["mail"]'
        )


def _texts(value: Any, source: str) -> list[str]:
    """Return what was said as a list, without empty names."""
    texts = [value] if isinstance(value, str) else list(value or [])
    if any(not text.strip() for text in texts):
        raise SettingError(f"{source} has an empty name: leave it out for every queue")
    return texts


def _sizes(texts: list[str], source: str) -> dict[str, int | None]:
    """Return by queue how many slots of its own it has; None: it shares some."""
    sizes: dict[str, int | None] = {}
    for text in texts:
        match = _SIZED.fullmatch(text)
        name, size = (match[1], int(match[2])) if match else (text, None)
        if size == 0 or not name.strip():
            raise SettingError(
                f"{source} is {text!r}: it must be NAME, or NAME:N with 1 slot or more"
            )
        if name in sizes and sizes[name] != size:
            raise SettingError(
                f"{source} names {name} twice, with and without slots of its own, or "
                "with two numbers of them: say it once"
            )
        sizes[name] = size
    return sizes


def _workers(options: dict[str, Any], queues: _Queues, container: Container) -> int:
    """Return how many slots there are, in all pools."""
    workers, source = options.get("workers"), "--workers"
    is_total = workers is not None  # else they are those of the unsized queues
    if workers is None:
        workers, source = app_settings.workers, _workers_setting()
    if workers == "auto":
        workers, source = container.processors(), f"{source} auto"
    workers = parse_count(workers, source)
    sized = sum(queues.sizes.values())
    if not sized or not is_total:
        return sized + (workers if queues.unsized else 0)
    said = ", ".join(f"{name}:{size}" for name, size in queues.sizes.items())
    if sized > workers:
        raise SettingError(
            f"{source} is {workers}, and the queues' own slots are {sized} ({said}): "
            "have more workers or smaller sizes, or leave --workers out"
        )
    if queues.unsized and sized == workers:
        rest = ", ".join(sorted(queues.served.queues.difference(queues.sizes)))
        raise SettingError(
            f"{source} is {workers}, and all are the queues' own slots ({said}): none "
            f"is left for {rest}. Have more workers, or give each queue a size"
        )
    if not queues.unsized and sized < workers:
        text = "%s is %s, and no queue is served that could use more than %s (%s)"
        logger.warning(text, source, workers, sized, said)
        return sized
    return workers


def check_settings() -> None:
    """Refuse what would stop the runner when it records its first failure."""
    for message in checks.check_settings():
        raise SettingError(f"{message.msg} {message.hint}")


def _supervision(
    options: dict[str, Any],
    queues: _Queues,
    heartbeat_file: Callable[[dict[str, Any]], str | None],
) -> Supervision | None:
    if options["in_process"]:
        _refuse_limits(options)
        _refuse_sizes(options, queues)
        return None
    rules = _rules(options)
    return Supervision(
        options=_options(options, rules, queues),
        rules=rules,
        start_method=_start_method(options),
        heartbeat_file=heartbeat_file(options),
        probe_port=_probe_port(options),
        probe_host=options.get("probe_host") or "",
    )


def _heartbeat_file(options: dict[str, Any]) -> str | None:
    path, source = options.get("heartbeat_file"), "--heartbeat-file"
    if path is None:
        source = "BACKGROUND_TASK_HEARTBEAT_FILE"
        path = app_settings.BACKGROUND_TASK_HEARTBEAT_FILE
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise SettingError(f"{source} is {path!r}: it must be the path of a file")
    alive, _ = probe.judge(os.fspath(path), max_age=probe.MAX_AGE)
    if alive:
        raise OptionError(  # not the value is wrong: it may be free the next time
            f"{source} is {os.fspath(path)!r}, which another process_tasks writes to: "
            "each needs a file of its own"
        )
    return os.fspath(path)


def _probe_port(options: dict[str, Any]) -> int | None:
    port = options.get("probe_port")
    if port is not None:
        return parse_count(port, "--probe-port", least=0, most=65535)
    if options.get("probe_host"):
        raise SettingError("--probe-host needs --probe-port: nothing listens without")
    return None


def _options(options: dict[str, Any], rules: LimitRules, queues: _Queues) -> Options:
    """Resolve what was asked for: the command line, else the settings."""
    container = Container()
    most, most_source = options.get("tasks_per_process"), "--tasks-per-process"
    if most is None:
        most_source = "BACKGROUND_TASK_TASKS_PER_PROCESS"
        most = app_settings.BACKGROUND_TASK_TASKS_PER_PROCESS
    tasks_per_process = parse_count(most, most_source)
    drain, drain_source = options.get("drain_timeout"), "--drain-timeout"
    if drain is None:
        drain_source = "BACKGROUND_TASK_DRAIN_TIMEOUT"
        drain = app_settings.BACKGROUND_TASK_DRAIN_TIMEOUT
    memory = rules.limits({}, {})["memory"]
    return Options(
        workers=_workers(options, queues, container),
        pools=queues.sizes,
        ahead=_ahead(tasks_per_process),
        tasks_per_process=tasks_per_process,
        duration=_duration(options),
        until_empty=options["until_empty"],
        drain_timeout=parse_seconds(drain, drain_source, least=0),
        grace=_setting("BACKGROUND_TASK_GRACE", least=0),
        start_timeout=_setting("BACKGROUND_TASK_START_TIMEOUT"),
        lease=_setting("BACKGROUND_TASK_LEASE", least=1),
        memory=memory,
        memory_budget=_memory_budget(options, memory, container),
        announcer=replace(ANNOUNCER, memory=memory, grace=rules.grace),
    )


def _memory_budget(
    options: dict[str, Any], limit: int | None, container: Container
) -> int | None:
    """Return the bytes that tasks may hold together; refuse less than one may hold."""
    budget, source = options.get("memory_budget"), "--memory-budget"
    if budget is None:
        budget = app_settings.BACKGROUND_TASK_MEMORY_BUDGET
        source = "BACKGROUND_TASK_MEMORY_BUDGET"
    if budget is None:
        return None
    bytes_ = budget_of(container) if budget == "auto" else parse_memory(budget, source)
    if limit is not None and limit > bytes_:
        raise SettingError(
            f"{source} is {size_text(bytes_)}, and a task may hold {size_text(limit)} "
            "(--memory-limit, or BACKGROUND_TASK_MEMORY_LIMIT): no task without a "
            "smaller limit of its own could ever run. Raise the one or lower the other"
        )
    return bytes_


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
    near = {key: meant(key, known) for key in override if key not in known}
    return "".join(
        f"; {key}: did you mean {match}?" for key, match in near.items() if match
    )


def _duration(options: dict[str, Any]) -> float:
    return parse_seconds(options["duration"], "--duration", least=-math.inf)


def _setting(name: str, least: float | None = None) -> float:
    return parse_seconds(getattr(app_settings, name), setting_name(name), least=least)


def _workers_setting() -> str:
    if app_settings.BACKGROUND_TASK_WORKERS is not None:
        return "BACKGROUND_TASK_WORKERS"
    return "BACKGROUND_TASK_ASYNC_THREADS"


def _refuse_sizes(options: dict[str, Any], queues: _Queues) -> None:
    if options["queue"] is not None and queues.sizes:
        name, size = next(iter(queues.sizes.items()))
        raise SettingError(
            f"--queue {name}:{size} does not go with --in-process, which runs one task "
            f"at a time: leave out the :{size}"
        )


def _refuse_limits(options: dict[str, Any]) -> None:
    for name in (
        "workers",
        "tasks_per_process",
        "memory_limit",
        "max_run_time",
        "memory_budget",
        "drain_timeout",
        "start_method",
        "heartbeat_file",
        "probe_port",
        "probe_host",
    ):
        if options.get(name) is not None:
            raise SettingError(
                f"--{name.replace('_', '-')} does not go with --in-process, which runs "
                "one task at a time in this process, has no supervisor and can limit "
                "nothing"
            )
