"""What is measured: each package with its own runner, as its manual says."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Where `make bench` has put django-background-tasks 1.2.8.
UPSTREAM = Path(os.environ.get("BENCH_UPSTREAM", ROOT / ".venv-bench" / "upstream"))

Command = list[str]


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the tables."""

    name: str
    text: str  # as the tables call it
    isolation: str  # what a task shares its process with
    store: str  # where the queue is: the database, or Redis
    queue: str  # its module of benchmarks.project.queues
    apps: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)  # modules
    commands: Callable[[int], list[Command]]  # what to start for so many slots
    rate: float  # no-op tasks per second, roughly: how many to enqueue at first
    option: str = ""  # of process_tasks, which may not be there yet
    upstream: bool = False

    @property
    def ours(self) -> bool:
        return self.queue == "for_background_task" and not self.upstream

    @property
    def path(self) -> str:
        """PYTHONPATH: both packages are imported as `background_task`."""
        return os.pathsep.join([str(UPSTREAM)] * self.upstream + [str(ROOT)])

    def missing(self) -> str:
        """Say what there is not; nothing if it can be tried."""
        if self.upstream and not UPSTREAM.exists():
            return f"there is no {UPSTREAM}"
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        if self.option and self.option not in _options_of_process_tasks():
            return f"process_tasks has no {self.option}"
        return ""


def _options_of_process_tasks() -> str:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "benchmarks.project.settings",
        "BENCH_APPS": '["background_task"]',
        "BENCH_DATABASE": '{"ENGINE": "django.db.backends.sqlite3"}',
    }
    command = [sys.executable, "-m", "django", "process_tasks", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done.stdout


def _manage(*arguments: str) -> Command:
    return [sys.executable, "-m", "django", *arguments]


def _ours(*options: str) -> Callable[[int], list[Command]]:
    return lambda slots: [_manage("process_tasks", "--workers", str(slots), *options)]


def _celery(*options: str) -> Callable[[int], list[Command]]:
    app = ["--app", "benchmarks.project.queues.for_celery"]
    worker = ["worker", "--pool", "prefork", "--loglevel", "WARNING", *options]
    command = [sys.executable, "-m", "celery", *app, *worker, "--concurrency"]
    return lambda slots: [[*command, str(slots)]]


def _each(*command: str) -> Callable[[int], list[Command]]:
    """A process for every slot."""
    return lambda slots: [list(command)] * slots


SYSTEMS = [
    System(
        name="template",
        text="this package, template",
        isolation="process per task",
        store="database",
        queue="for_background_task",
        apps=["background_task"],
        commands=_ours("--start-method", "template"),
        rate=150,
    ),
    System(
        name="reuse",
        text="this package, --tasks-per-process 100",
        isolation="100 tasks share one",
        store="database",
        queue="for_background_task",
        apps=["background_task"],
        commands=_ours("--tasks-per-process", "100"),
        rate=1500,
        option="--tasks-per-process",
    ),
    System(
        name="spawn",
        text="this package, spawn",
        isolation="process per task",
        store="database",
        queue="for_background_task",
        apps=["background_task"],
        commands=_ours("--start-method", "spawn"),
        rate=5,
    ),
    System(
        name="upstream",
        text="django-background-tasks 1.2.8, a process per slot",
        isolation="none",
        store="database",
        queue="for_background_task",
        apps=["background_task"],
        commands=_each(*_manage("process_tasks")),
        rate=60,
        upstream=True,
    ),
    System(
        name="rq",
        text="RQ, a forking worker per slot",
        isolation="process per task",
        store="Redis",
        queue="for_rq",
        needs=["rq", "redis"],
        commands=_each(sys.executable, "-m", "benchmarks.project.queues.for_rq"),
        rate=100,
    ),
    System(
        name="celery",
        text="Celery, prefork",
        isolation="none",
        store="Redis",
        queue="for_celery",
        needs=["celery", "redis"],
        commands=_celery(),
        rate=600,
    ),
    System(
        name="celery-1",
        text="Celery, prefork, --max-tasks-per-child=1",
        isolation="process per task",
        store="Redis",
        queue="for_celery",
        needs=["celery", "redis"],
        commands=_celery("--max-tasks-per-child=1"),
        rate=8,
    ),
    System(
        name="django-tasks-db",
        text="django-tasks-db, a db_worker per slot",
        isolation="none",
        store="database",
        queue="for_django_tasks",
        apps=["django_tasks_db"],
        needs=["django_tasks_db"],
        commands=_each(*_manage("db_worker", "--verbosity", "0")),
        rate=80,
    ),
    System(
        name="procrastinate",
        text="procrastinate, threads",
        isolation="none",
        store="database",
        queue="for_procrastinate",
        apps=["procrastinate.contrib.django"],
        needs=["procrastinate"],
        commands=lambda slots: [
            _manage("procrastinate", "worker", "--concurrency", str(slots))
        ],
        rate=250,
    ),
]

SITE = replace(
    SYSTEMS[0],
    name="site",
    text="this package, in a site with the admin",
    apps=[
        *(f"django.contrib.{app}" for app in ("admin", "sessions", "messages")),
        "django.contrib.staticfiles",
        "background_task",
    ],
)

LIMITED = replace(
    SYSTEMS[0],
    name="limited",
    text="this package, template, tasks with limits",
    queue="for_limits",
)
