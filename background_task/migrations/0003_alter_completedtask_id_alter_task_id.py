from django.db import migrations


class Migration(migrations.Migration):
    """Does nothing: the name is taken because projects have a migration of that name.

    `makemigrations` wrote it into the installed package of django-background-tasks
    1.2.8, which did not say of what type its ids are. Those that were made big by it
    may stay big.
    """

    dependencies = [("background_task", "0002_auto_20170927_1109")]

    operations = []
