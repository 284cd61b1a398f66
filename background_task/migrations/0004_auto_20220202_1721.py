from django.db import migrations


class Migration(migrations.Migration):
    """Does nothing: here django4-background-tasks took back what its 0003 had done."""

    dependencies = [("background_task", "0003_auto_20210410_1529")]

    operations = []
