# ruff: noqa: RUF012 (as makemigrations writes it)
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Certificate",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                (
                    "fingerprint",
                    models.CharField(
                        max_length=64, unique=True, verbose_name="SHA-256 fingerprint"
                    ),
                ),
                ("subject", models.CharField(max_length=250)),
                ("issuer", models.CharField(max_length=250)),
                (
                    "key",
                    models.CharField(help_text='such as "RSA 4096"', max_length=50),
                ),
                ("not_before", models.DateTimeField(verbose_name="valid from")),
                ("not_after", models.DateTimeField(verbose_name="valid until")),
                (
                    "days_left",
                    models.IntegerField(
                        help_text="when it was checked; negative: expired"
                    ),
                ),
                ("checked_at", models.DateTimeField()),
                (
                    "checked_by",
                    models.IntegerField(help_text="the id of the process that read it"),
                ),
            ],
            options={
                "ordering": ("not_after", "subject"),
            },
        ),
        migrations.CreateModel(
            name="Subprocess",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("pid", models.IntegerField()),
                ("command", models.CharField(max_length=250)),
                ("started", models.FloatField(help_text="as psutil's create_time()")),
            ],
        ),
    ]
