"""Where the rows are: databases that are made for a benchmark, and dropped after it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

POSTGRESQL = os.environ.get("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432")
MARIADB = os.environ.get("MARIADB_URL", "mysql://root@127.0.0.1:3306")
REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/9")
_REDIS_KEYS = ("rq:*", "background-task-bench:*", "_kombu*", "unacked*")

Settings = dict[str, Any]


def sqlite(folder: Path, name: str) -> Settings:
    """Return the settings of an SQLite file, as the README advises them."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / f"{name}.sqlite3"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL;",
        },
    }


def _server(url: str, engine: str, name: str) -> Settings:
    parts = urlsplit(url)
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": f"background_task_bench_{name.replace('-', '_')}",
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
    }


def settings(database: str, folder: Path, name: str) -> Settings:
    """Return Django's settings for a database of this name that may not be there."""
    if database == "postgresql":
        return _server(POSTGRESQL, "postgresql", name)
    if database == "mariadb":
        return _server(MARIADB, "mysql", name)
    return sqlite(folder, name)


def create(made: Settings, template: Settings | None = None) -> None:
    """Make the database, empty or as a copy of another; drop a former one."""
    drop(made)
    match made["ENGINE"].rpartition(".")[2]:
        case "sqlite3":
            if template:
                shutil.copy(template["NAME"], made["NAME"])
        case "postgresql":
            source = f" TEMPLATE {template['NAME']}" if template else ""
            _execute(made, f"CREATE DATABASE {made['NAME']}{source}")
        case "mysql":
            assert template is None
            collation = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            _execute(made, f"CREATE DATABASE {made['NAME']} {collation}")


def drop(made: Settings) -> None:
    """Drop the database, if it is there."""
    match made["ENGINE"].rpartition(".")[2]:
        case "sqlite3":
            for suffix in ("", "-wal", "-shm"):
                Path(made["NAME"] + suffix).unlink(missing_ok=True)
        case "postgresql":
            _execute(made, f"DROP DATABASE IF EXISTS {made['NAME']} WITH (FORCE)")
        case "mysql":
            _execute(made, f"DROP DATABASE IF EXISTS {made['NAME']}")


def _execute(made: Settings, statement: str) -> None:
    with contextlib.closing(_connect(made)) as connection:
        connection.cursor().execute(statement)


def _connect(made: Settings) -> Any:
    """Connect to the server, to no database of ours."""
    where = {"host": made["HOST"], "port": int(made["PORT"]), "user": made["USER"]}
    if made["ENGINE"].endswith("mysql"):
        import pymysql

        return pymysql.connect(**where, password=made["PASSWORD"])
    import psycopg

    return psycopg.connect(
        **where, password=made["PASSWORD"], dbname="postgres", autocommit=True
    )


def version(database: str) -> str:
    """Return the server's version, or why there is none; Redis is one too."""
    try:
        if database == "sqlite":
            import sqlite3

            return f"SQLite {sqlite3.sqlite_version}"
        if database == "redis":
            import redis

            with redis.Redis.from_url(REDIS) as client:
                return f"Redis {client.info('server')['redis_version']}"
        with contextlib.closing(_connect(settings(database, Path(), ""))) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT version()")
            words = cursor.fetchone()[0].split()
            return (
                f"MariaDB {words[0]}" if database == "mariadb" else " ".join(words[:2])
            )
    except Exception as error:  # whatever the driver raises, or that there is none
        return f"no {database} ({type(error).__name__}: {' '.join(str(error).split())})"


@contextlib.contextmanager
def redis_keys() -> Iterator[None]:
    """Have no key of the peers before and after."""
    _delete_keys()
    try:
        yield
    finally:
        _delete_keys()


def _delete_keys() -> None:
    import redis

    with redis.Redis.from_url(REDIS) as client:
        for pattern in _REDIS_KEYS:
            for key in client.scan_iter(pattern, count=10_000):
                client.delete(key)
