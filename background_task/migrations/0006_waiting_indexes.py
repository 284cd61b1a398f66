from django.db import migrations

from background_task.indexes import WaitingIndex


class Migration(migrations.Migration):
    """Add what claims read, so that their cost does not grow with the table."""

    dependencies = [("background_task", "0005_runner")]

    operations = [
        migrations.AddIndex(
            "task",
            WaitingIndex(fields=["priority", "run_at"], name="bgtask_waiting"),
        ),
        migrations.AddIndex(
            "task",
            WaitingIndex(
                fields=["queue", "priority", "run_at"], name="bgtask_waiting_queue"
            ),
        ),
        migrations.AddIndex(
            "task",
            WaitingIndex(fields=["task_name", "run_at"], name="bgtask_waiting_name"),
        ),
    ]
