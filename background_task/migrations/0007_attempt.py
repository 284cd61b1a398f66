from django.db import migrations, models


class Migration(migrations.Migration):
    """Add the tries' history, and what a task says of its progress and its limit."""

    dependencies = [
        ("background_task", "0006_waiting_indexes"),
    ]

    operations = [
        migrations.CreateModel(
            name="Attempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("task_id", models.BigIntegerField(db_index=True)),
                ("task_name", models.CharField(max_length=190)),
                ("number", models.IntegerField()),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("Succeeded", "succeeded"),
                            ("Failed", "failed"),
                            ("TimedOut", "timed out"),
                            ("OutOfMemory", "out of memory"),
                            ("Crashed", "crashed"),
                            ("Lost", "lost"),
                            ("Cancelled", "cancelled"),
                        ],
                        max_length=16,
                    ),
                ),
                ("error", models.TextField(blank=True)),
                ("waited", models.FloatField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(db_index=True)),
                ("host", models.CharField(blank=True, max_length=255)),
                ("pid", models.IntegerField(null=True)),
                ("runner_id", models.CharField(blank=True, max_length=64)),
                ("exit_code", models.IntegerField(null=True)),
                ("peak_memory", models.BigIntegerField(null=True)),
                ("cpu_seconds", models.FloatField(null=True)),
                ("output", models.TextField(blank=True)),
                ("output_size", models.BigIntegerField(default=0)),
                ("stack", models.TextField(blank=True)),
            ],
            options={
                "ordering": ("task_id", "number", "id"),
            },
        ),
        migrations.AddField(
            model_name="completedtask",
            name="task_id",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddIndex(
            "completedtask",
            models.Index(fields=["task_id"], name="bgtask_completed_task"),
        ),
        migrations.AddField(
            model_name="task",
            name="max_run_time",
            field=models.FloatField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="progress_done",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="progress_message",
            field=models.CharField(blank=True, max_length=200, null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="progress_total",
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
