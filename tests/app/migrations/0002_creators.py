import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

CODE = models.CharField(max_length=10, primary_key=True, serialize=False)
ID = models.BigAutoField(
    auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
)
USER = models.OneToOneField(
    on_delete=django.db.models.deletion.CASCADE,
    primary_key=True,
    serialize=False,
    to=settings.AUTH_USER_MODEL,
)
UUID = models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)


class Migration(migrations.Migration):
    dependencies = (
        ("app", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    )

    operations = (
        migrations.CreateModel(
            name="Customer",
            fields=[("id", ID), ("name", models.CharField(max_length=50))],
        ),
        migrations.CreateModel(name="Profile", fields=[("user", USER)]),
        migrations.CreateModel(name="Visitor", fields=[("id", UUID)]),
        migrations.CreateModel(name="Country", fields=[("code", CODE)]),
    )
