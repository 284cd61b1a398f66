"""Which databases are here, and how Django reaches them."""

import contextlib
import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

ENGINES = {
    "sqlite": "django.db.backends.sqlite3",
    "postgres": "django.db.backends.postgresql",
    "postgresql": "django.db.backends.postgresql",
    "mysql": "django.db.backends.mysql",
    "mariadb": "django.db.backends.mysql",
}


def settings_from_url(url: str) -> dict[str, Any]:
    """Return Django's settings for a database named by a URL."""
    parts = urlsplit(url)
    settings: dict[str, Any] = {"ENGINE": ENGINES[parts.scheme]}
    if parts.scheme == "sqlite":
        # A file, since a child process cannot see an in-memory database.
        folder = os.environ.get("TEST_FOLDER", tempfile.gettempdir())
        name = os.path.join(folder, "background_task.sqlite3")
        return settings | {"NAME": name, "TEST": {"NAME": name}}
    options = dict(parse_qsl(parts.query))
    settings |= {
        "NAME": unquote(parts.path.lstrip("/")) or "background_task",
        "HOST": options.pop("host", None) or parts.hostname or "",
        "PORT": str(parts.port or ""),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
    }
    if settings["ENGINE"].endswith("mysql"):
        import pymysql

        pymysql.install_as_MySQLdb()
        settings["TEST"] = {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_bin"}
    return settings


# Debian has it where only root looks.
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")


class PgBouncer:
    """A pooler in transaction mode in front of a PostgreSQL."""

    def __init__(self, folder: str, server: dict[str, Any], size: int) -> None:
        """`server`: Django's settings; `size`: how many sessions there are for all."""
        host = server["HOST"] or "127.0.0.1"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        parts = {
            "host": host,
            "port": server["PORT"] or 5432,
            "dbname": server["NAME"],
            "user": server["USER"],
            "password": server["PASSWORD"],
        }
        said = " ".join(f"{name}='{value}'" for name, value in parts.items() if value)
        os.chmod(folder, 0o755)
        self._path = os.path.join(folder, "pgbouncer.ini")
        with open(self._path, "w") as file:
            file.write(
                f"[databases]\n{server['NAME']} = {said}\n[pgbouncer]\n"
                f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\n"
                "unix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
                f"default_pool_size = {size}\n"
            )
        self._as = []
        if os.geteuid() == 0:  # it does not run as root
            owner = os.stat(host).st_uid if host.startswith("/") else 0
            self._as = ["-u", pwd.getpwuid(owner).pw_name if owner else "nobody"]
        self.where = {"HOST": "127.0.0.1", "PORT": str(self.port)}

    def __enter__(self) -> Self:
        assert PGBOUNCER is not None, "it is installed"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [PGBOUNCER, *self._as, self._path]
        self._process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        while self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            time.sleep(0.05)
        raise RuntimeError(f"PgBouncer ended with status {self._process.returncode}")

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()


class MariaDB:
    """A server of one's own, which may be made read-only, frozen and stopped."""

    NAME, USER = "background_task", "app"  # a user whom `read_only` holds for

    def __init__(self, folder: str) -> None:
        """Make it in this folder, which is empty; raises FileNotFoundError if it can't.

        Its user has nobody's rights but on the one database.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        user = [f"--user={getpass.getuser()}"]
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/data"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*install, *user], check=True, **quiet)  # type: ignore[call-overload]
        self._command = [
            *("mariadbd", "--no-defaults", f"--datadir={folder}/data", *user),
            *(f"--port={self.port}", "--bind-address=127.0.0.1"),
            *(f"--socket={folder}/s", f"--pid-file={folder}/pid"),
            *("--skip-log-bin", "--innodb-buffer-pool-size=16M"),
        ]
        self._socket, self._quiet = f"{folder}/s", quiet
        self.start()
        self.execute(
            f"CREATE DATABASE {self.NAME} CHARACTER SET utf8mb4",
            f"CREATE USER {self.USER}@'127.0.0.1'",
            f"GRANT ALL ON {self.NAME}.* TO {self.USER}@'127.0.0.1'",
        )

    @property
    def url(self) -> str:
        return f"mysql://{self.USER}@127.0.0.1:{self.port}/{self.NAME}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, **self._quiet)
        while self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"MariaDB ended with status {self._process.returncode}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def execute(self, *statements: str) -> None:
        """Execute these as its administrator."""
        import pymysql

        user = getpass.getuser()
        with (
            contextlib.closing(
                pymysql.connect(unix_socket=self._socket, user=user)
            ) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
