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
                ("id", models.BigAutoField("id", primary_key=True, serialize=False)),
                ("task_id", models.BigIntegerField("task id", db_index=True)),
                ("task_name", models.CharField("task name", max_length=190)),
                ("number", models.IntegerField("number")),
                (
                    "outcome",
                    models.CharField(
                        "outcome",
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
                ("error", models.TextField("error", blank=True)),
                ("waited", models.FloatField("waited", null=True)),
                ("started_at", models.DateTimeField("started at", null=True)),
                ("ended_at", models.DateTimeField("ended at", db_index=True)),
                ("host", models.CharField("host", blank=True, max_length=255)),
                ("pid", models.IntegerField("pid", null=True)),
                ("runner_id", models.CharField("runner id", blank=True, max_length=64)),
                ("exit_code", models.IntegerField("exit code", null=True)),
                ("peak_memory", models.BigIntegerField("peak memory", null=True)),
                ("cpu_seconds", models.FloatField("cpu seconds", null=True)),
                ("output", models.TextField("output", blank=True)),
                ("output_size", models.BigIntegerField("output size", default=0)),
                ("stack", models.TextField("stack", blank=True)),
            ],
            options={
                "ordering": ("task_id", "number", "id"),
                "verbose_name": "attempt",
                "verbose_name_plural": "attempts",
            },
        ),
        migrations.AddField(
            model_name="completedtask",
            name="task_id",
            field=models.BigIntegerField("task id", blank=True, null=True),
        ),
        migrations.AddIndex(
            "completedtask",
            models.Index(fields=["task_id"], name="bgtask_completed_task"),
        ),
        migrations.AddField(
            model_name="task",
            name="max_run_time",
            field=models.FloatField("max run time", blank=True, null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="progress_done",
            field=models.BigIntegerField("progress done", blank=True, null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="progress_message",
            field=models.CharField(
                "progress message", blank=True, max_length=200, null=True
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="progress_total",
            field=models.BigIntegerField("progress total", blank=True, null=True),
        ),
    ]
