from django.db import migrations, models


class Migration(migrations.Migration):
    """Add what a repetition is counted from, where `run_at` does not say it."""

    dependencies = [
        ("background_task", "0007_attempt"),
    ]

    operations = [
        migrations.AddField(
            model_name="task",
            name="repeat_from",
            field=models.DateTimeField(
                "repeat from", blank=True, editable=False, null=True
            ),
        ),
    ]
