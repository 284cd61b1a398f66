"""Are the tables there, with all their columns?"""

from django.db import Error, models


def look_for_columns(model: type[models.Model], alias: str) -> None:
    """Raise what the database says if it has not got all columns of a model.

    Reads no row: one that can't be read is no reason not to start.
    """
    list(model._base_manager.using(alias).filter(pk__isnull=True))


def migrate_text(alias: str, error: Error) -> str:
    text = " ".join(str(error).split())
    return (
        f"The tables of background_task in database {alias!r} are missing or not up to "
        f"date ({text}). Run: manage.py migrate background_task --database {alias}"
    )
