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
BENCH_REDIS = os.environ.get("BENCH_REDIS", "")

# django-tasks-db
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
