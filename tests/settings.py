"""The settings of the test project; TEST_DATABASE_URL says which database."""

import os

from tests.databases import settings_from_url

SECRET_KEY = "not a secret: tests only"
DATABASES = {
    "default": settings_from_url(os.environ.get("TEST_DATABASE_URL", "sqlite://"))
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "background_task",
    "tests.app",
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
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
# As Django 6.1 wants it; older ones read another setting.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
# A test's temporary directory arrives here, so that its children share it.
for name in os.environ.get("TEST_SETTINGS", "").split(";"):
    if name:
        key, _, value = name.partition("=")
        globals()[key] = __import__("json").loads(value)
