"""The app as Django knows it."""

from django.apps import AppConfig
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from . import __version__


class BackgroundTasksAppConfig(AppConfig):
    """Register the checks; pin the type of the ids, which must not follow a setting."""

    name = "background_task"
    label = "background_task"
    verbose_name = format_lazy("{} ({})", _("Background Tasks"), __version__)
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from . import checks  # noqa: F401
