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
            field=models.BooleanField("draining", null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="excluded_queues",
            field=models.JSONField("excluded queues", null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="lease",
            field=models.FloatField("lease", null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="queues",
            field=models.JSONField("queues", null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="running",
            field=models.JSONField("running", null=True),
        ),
        migrations.AddField(
            model_name="runner",
            name="slots",
            field=models.IntegerField("slots", null=True),
        ),
        migrations.CreateModel(
            name="Control",
            fields=[
                ("id", models.BigAutoField("id", primary_key=True, serialize=False)),
                (
                    "verb",
                    models.CharField(
                        "verb",
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
                ("target", models.CharField("target", max_length=190)),
                ("by", models.CharField("by", max_length=150)),
                ("at", models.DateTimeField("at")),
                ("answer", models.TextField("answer", blank=True, default="")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("verb", "target"), name="bgtask_control_once"
                    )
                ],
                "verbose_name": "control",
                "verbose_name_plural": "controls",
            },
        ),
    ]
