"""Which databases are here, and how Django reaches them."""

import os
import tempfile
from typing import Any
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
