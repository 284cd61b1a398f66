from django.db import migrations, models


class Migration(migrations.Migration):
    """Add what people ask of runners, and what they see of them."""

    dependencies = [
        ("background_task", "0008_repeat_from"),
    ]

    operations = [
        migrations.AddField(
            model_name="runner",
            name="draining",
            field=models.BooleanField(null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="excluded_queues",
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="lease",
            field=models.FloatField(null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="queues",
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="running",
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="slots",
            field=models.IntegerField(null=True),
        ),
        migrations.CreateModel(
            name="Control",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "verb",
                    models.CharField(
                        choices=[
                            ("stop", "stop"),
                            ("pause", "pause"),
                            ("drain", "drain"),
                            ("output", "output"),
                            ("stack", "stack"),
                        ],
                        max_length=16,
                    ),
                ),
                ("target", models.CharField(max_length=190)),
                ("by", models.CharField(max_length=150)),
                ("at", models.DateTimeField()),
                ("answer", models.TextField(blank=True, default="")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("verb", "target"), name="bgtask_control_once"
                    )
                ],
            },
        ),
    ]
