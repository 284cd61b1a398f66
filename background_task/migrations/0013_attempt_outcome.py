from django.db import migrations, models


class Migration(migrations.Migration):
    """Add what finds the tries of an outcome that is rare, the newest ones first."""

    dependencies = [
        ("background_task", "0012_control_to_the_letter"),
    ]

    operations = [
        migrations.AddIndex(
            "attempt",
            models.Index(fields=["outcome", "id"], name="bgtask_attempt_outcome"),
        ),
    ]
