"""A project as it was written for django-background-tasks 1.2.8.

The environment says where it runs: DATABASE (JSON, as in DATABASES), JOURNAL and
HEARD (files that tasks and receivers write to), AUTO_FIELD (none if it is empty) and
SETTINGS (JSON of any others).
"""

import json
import os

DATABASES = {
    "default": json.loads(
        os.environ.get("DATABASE")
        or '{"ENGINE": "django.db.backends.sqlite3", "NAME": "project.sqlite3"}'
    )
}
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    import pymysql

    pymysql.install_as_MySQLdb()

SECRET_KEY = "not a secret: tests only"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
USE_TZ = True
if os.environ.get("AUTO_FIELD", "AutoField"):
    name = os.environ.get("AUTO_FIELD", "AutoField")
    DEFAULT_AUTO_FIELD = f"django.db.models.{name}"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "background_task",
    "exports",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

MAX_ATTEMPTS = 3
BACKGROUND_TASK_RUN_ASYNC = False

JOURNAL = os.environ.get("JOURNAL", os.devnull)
HEARD = os.environ.get("HEARD", os.devnull)

globals().update(json.loads(os.environ.get("SETTINGS", "{}")))
