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
                    models.CharField(
                        "id", max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("host", models.CharField("host", max_length=255)),
                ("place", models.CharField("place", db_index=True, max_length=190)),
                ("pid", models.IntegerField("pid")),
                ("pid_started", models.BigIntegerField("pid started")),
                ("started_at", models.DateTimeField("started at")),
                ("trusted_until", models.DateTimeField("trusted until")),
                ("version", models.CharField("version", default="", max_length=32)),
            ],
            options={"verbose_name": "runner", "verbose_name_plural": "runners"},
        ),
    ]
