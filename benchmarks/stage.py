"""One package on one database: its tables, its producer, its runner; all gone after."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import databases, processes
from .records import Records
from .systems import System

_MARK = "BENCH_STAGE"
_STOP = 15.0  # seconds for a runner to end by itself


class Stage:
    """A system on a database of its own, with nothing running yet."""

    def __init__(self, system: System, database: databases.Settings, folder: Path):
        self.system = system
        self.folder = folder
        self.records = Records(folder / "records")
        self._mark = uuid.uuid4().hex
        self._environment = environment(system, database, folder) | {_MARK: self._mark}
        self._client: subprocess.Popen[str] | None = None
        self.runners: list[subprocess.Popen[bytes]] = []

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the producer do something; return its answer."""
        if self._client is None:
            self._client = self._start_client()
        assert self._client.stdin and self._client.stdout
        self._client.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._client.stdin.flush()
        answer = self._client.stdout.readline()
        if not answer:
            raise Failed(f"the producer died: {self.last_words('client')}")
        return dict(json.loads(answer))

    def _start_client(self) -> subprocess.Popen[str]:
        with (self.folder / "client.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.project.client"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self, slots: int) -> None:
        """Start the runner."""
        for number, command in enumerate(self.system.commands(slots)):
            with (self.folder / f"runner-{number}.log").open("wb") as log:
                runner = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.runners.append(runner)

    @property
    def pids(self) -> list[int]:
        """Return the runner's processes, its tasks' among them."""
        return processes.tree(runner.pid for runner in self.runners)

    def dead(self) -> str:
        """Say how the runner died; nothing while it lives."""
        for number, runner in enumerate(self.runners):
            if runner.poll() is not None:
                words = self.last_words(f"runner-{number}")
                return f"the runner ended with status {runner.returncode}: {words}"
        return ""

    def last_words(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return " / ".join(text.strip().splitlines()[-3:])[-500:] or "no word"

    def close(self) -> None:
        """End the producer and the runner, and whatever they have left."""
        if self._client is not None:
            assert self._client.stdin and self._client.stdout
            self._client.stdin.close()
            self._client.wait()
            self._client.stdout.close()
        for runner in self.runners:
            runner.terminate()
        give_up_at = time.monotonic() + _STOP
        for runner in self.runners:
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.wait(max(0.1, give_up_at - time.monotonic()))
        processes.end(processes.marked(_MARK, self._mark))
        for runner in self.runners:
            runner.wait()


class Failed(Exception):
    """A package could not be started, or stopped working."""


def environment(
    system: System, database: databases.Settings, folder: Path
) -> dict[str, str]:
    """Return the environment of the project's processes."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")}
    return kept | {
        "PYTHONPATH": system.path,
        "PYTHONDONTWRITEBYTECODE": "",
        "DJANGO_SETTINGS_MODULE": "benchmarks.project.settings",
        "BENCH_APPS": json.dumps(system.apps),
        "BENCH_DATABASE": json.dumps(database),
        "BENCH_QUEUE": system.queue,
        "BENCH_RECORDS": str(folder / "records"),
        "BENCH_REDIS": databases.REDIS,
    }


class Theatre:
    """Sets stages up: tables are made once for each system, and copied for each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._templates: dict[str, databases.Settings] = {}
        self._stages = 0

    @contextlib.contextmanager
    def stage(self, system: System, database: str) -> Iterator[Stage]:
        """Have a system on a fresh database, and nothing of it afterwards.

        Raises Failed with what is missing.
        """
        if why := system.missing():
            raise Failed(why)
        self._stages += 1
        folder = self._folder / f"{self._stages}-{system.name}"
        folder.mkdir()
        made = databases.settings(database, folder, "run")
        template = self._template(system, database)
        databases.create(made, template)
        stage = Stage(system, made, folder)
        on_redis = system.store == "Redis"
        try:
            with databases.redis_keys() if on_redis else contextlib.nullcontext():
                try:
                    if template is None:
                        migrate(system, made, folder)
                    yield stage
                finally:
                    stage.close()
        finally:
            databases.drop(made)

    def _template(self, system: System, database: str) -> databases.Settings | None:
        """Return an idle database with the system's tables."""
        if database == "mariadb":  # which copies no databases
            return None
        key = f"{database}_{system.name}"
        if key not in self._templates:
            made = databases.settings(database, self._folder, key)
            databases.create(made)
            self._templates[key] = made
            migrate(system, made, self._folder)
            _make_rows(system, made, self._folder)
        return self._templates[key]

    def close(self) -> None:
        for made in self._templates.values():
            databases.drop(made)


def migrate(system: System, made: databases.Settings, folder: Path) -> None:
    command = [sys.executable, "-m", "django", "migrate", "--run-syncdb"]
    done = subprocess.run(
        [*command, "--verbosity", "0"],
        cwd=folder,
        env=environment(system, made, folder),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"migrate: {done.stderr.strip().splitlines()[-1]}")


def _make_rows(system: System, made: databases.Settings, folder: Path) -> None:
    stage = Stage(system, made, folder)
    try:
        stage.ask("rows")
    finally:
        stage.close()
