from django.db import migrations


class Migration(migrations.Migration):
    """Does nothing: django4-background-tasks made the ids big here, then took it back.

    The name is kept, so that those who come from there have applied it.
    """

    dependencies = [("background_task", "0002_auto_20170927_1109")]

    operations = []
