from django.db import migrations, models


class Migration(migrations.Migration):
    """Add the runners; the tables of tasks stay as they are."""

    dependencies = [
        ("background_task", "0003_alter_completedtask_id_alter_task_id"),
        ("background_task", "0004_auto_20220202_1721"),
    ]

    operations = [
        migrations.CreateModel(
            name="Runner",
            fields=[
                (
                    "id",
                    models.CharField(max_length=64, primary_key=True, serialize=False),
                ),
                ("host", models.CharField(max_length=255)),
                ("place", models.CharField(db_index=True, max_length=190)),
                ("pid", models.IntegerField()),
                ("pid_started", models.BigIntegerField()),
                ("started_at", models.DateTimeField()),
                ("trusted_until", models.DateTimeField()),
                ("version", models.CharField(default="", max_length=32)),
            ],
        ),
    ]
