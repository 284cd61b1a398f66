from django.db import migrations


class Migration(migrations.Migration):
    """Add a permission: no table changes."""

    dependencies = [
        ("background_task", "0009_control"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="task",
            options={
                "permissions": (
                    ("control_task", "Can run, retry, cancel and stop tasks"),
                ),
                "verbose_name": "task",
                "verbose_name_plural": "tasks",
            },
        ),
    ]
