from django.db import migrations, models


class Migration(migrations.Migration):
    """As in django-background-tasks 1.2.8; it changes nothing in the database."""

    dependencies = [("background_task", "0001_initial")]

    operations = [
        migrations.AlterField(
            model_name="completedtask",
            name="queue",
            field=models.CharField(
                "queue", blank=True, db_index=True, max_length=190, null=True
            ),
        ),
        migrations.AlterField(
            model_name="completedtask",
            name="task_name",
            field=models.CharField("task name", db_index=True, max_length=190),
        ),
        migrations.AlterField(
            model_name="task",
            name="queue",
            field=models.CharField(
                "queue", blank=True, db_index=True, max_length=190, null=True
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="task_name",
            field=models.CharField("task name", db_index=True, max_length=190),
        ),
    ]
