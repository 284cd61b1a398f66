from django.db import migrations, models


class Migration(migrations.Migration):
    """Add what a task that is retried takes over from its completed row."""

    dependencies = [
        ("background_task", "0010_control_permission"),
    ]

    operations = [
        migrations.AddField(
            model_name="completedtask",
            name="max_run_time",
            field=models.FloatField("max run time", blank=True, null=True),
        ),
        migrations.AddField(
            model_name="completedtask",
            name="repeat_from",
            field=models.DateTimeField(
                "repeat from", blank=True, editable=False, null=True
            ),
        ),
    ]
