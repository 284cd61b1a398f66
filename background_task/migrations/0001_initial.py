import django.db.models.deletion
from django.db import migrations, models

REPEAT_CHOICES = [
    (3600, "hourly"),
    (86400, "daily"),
    (604800, "weekly"),
    (1209600, "every 2 weeks"),
    (2419200, "every 4 weeks"),
    (0, "never"),
]


def fields(related_name):
    return [
        (
            "id",
            models.AutoField(
                auto_created=True,
                primary_key=True,
                serialize=False,
                verbose_name="ID",
            ),
        ),
        ("task_name", models.CharField("task name", db_index=True, max_length=190)),
        ("task_params", models.TextField("task params")),
        ("task_hash", models.CharField("task hash", db_index=True, max_length=40)),
        (
            "verbose_name",
            models.CharField("verbose name", blank=True, max_length=255, null=True),
        ),
        ("priority", models.IntegerField("priority", db_index=True, default=0)),
        ("run_at", models.DateTimeField("run at", db_index=True)),
        ("repeat", models.BigIntegerField("repeat", choices=REPEAT_CHOICES, default=0)),
        ("repeat_until", models.DateTimeField("repeat until", blank=True, null=True)),
        (
            "queue",
            models.CharField(
                "queue", blank=True, db_index=True, max_length=190, null=True
            ),
        ),
        ("attempts", models.IntegerField("attempts", db_index=True, default=0)),
        (
            "failed_at",
            models.DateTimeField("failed at", blank=True, db_index=True, null=True),
        ),
        ("last_error", models.TextField("last error", blank=True)),
        (
            "locked_by",
            models.CharField(
                "locked by", blank=True, db_index=True, max_length=64, null=True
            ),
        ),
        (
            "locked_at",
            models.DateTimeField("locked at", blank=True, db_index=True, null=True),
        ),
        (
            "creator_object_id",
            models.PositiveIntegerField("creator object id", blank=True, null=True),
        ),
        (
            "creator_content_type",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name=related_name,
                verbose_name="creator content type",
                to="contenttypes.ContentType",
            ),
        ),
    ]


class Migration(migrations.Migration):
    """As in django-background-tasks 1.2.8, so that nothing is applied again.

    The names that people read are ours, here and in what follows: they are part of the
    state, to which the models are compared, and of no table. To alter each of them in a
    later migration would be an operation for each, in every project's tests.
    """

    initial = True

    dependencies = [("contenttypes", "0002_remove_content_type_name")]

    operations = [
        migrations.CreateModel(
            name="CompletedTask",
            fields=fields("completed_background_task"),
            options={
                "verbose_name": "completed task",
                "verbose_name_plural": "completed tasks",
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=fields("background_task"),
            options={
                "db_table": "background_task",
                "verbose_name": "task",
                "verbose_name_plural": "tasks",
            },
        ),
    ]
