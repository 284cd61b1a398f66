"""One project for every package that is measured.

The environment says which: BENCH_APPS (JSON, the apps of the package), BENCH_DATABASE
(JSON, as in DATABASES), BENCH_REDIS (a URL).
"""

import json
import os

DATABASES = {"default": json.loads(os.environ["BENCH_DATABASE"])}
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    import pymysql

    pymysql.install_as_MySQLdb()

SECRET_KEY = "not a secret: benchmarks only"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    *json.loads(os.environ["BENCH_APPS"]),
    "benchmarks.project",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
# For the pages of the admin, when BENCH_APPS has it.
ROOT_URLCONF = "benchmarks.project.urls"
STATIC_URL = "static/"
ALLOWED_HOSTS = ["testserver"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
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
BENCH_REDIS = os.environ.get("BENCH_REDIS", "")

# django-tasks-db
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
