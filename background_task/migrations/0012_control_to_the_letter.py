from typing import Any

from django.db import NotSupportedError, migrations

_FIRST_MYSQL = 8, 0, 17  # that has utf8mb4_0900_bin


def compare_to_the_letter(apps: Any, schema_editor: Any) -> None:
    """Have MySQL and MariaDB tell `mail`, `Mail` and `mail ` from one another.

    As claims do. Other databases do so anyway.
    """
    connection = schema_editor.connection
    if connection.vendor != "mysql":
        return
    if not connection.mysql_is_mariadb and connection.mysql_version < _FIRST_MYSQL:
        found = ".".join(map(str, connection.mysql_version))
        raise NotSupportedError(
            f"MySQL {found} does not compare to the letter: it has no collation "
            "utf8mb4_0900_bin, which 8.0.17 brought. Upgrade it, and migrate again"
        )
    kind = "nopad" if connection.mysql_is_mariadb else "0900"
    table = apps.get_model("background_task", "Control")._meta.db_table
    schema_editor.execute(
        f"ALTER TABLE {schema_editor.quote_name(table)} MODIFY target varchar(190) "
        f"CHARACTER SET utf8mb4 COLLATE utf8mb4_{kind}_bin NOT NULL"
    )


class Migration(migrations.Migration):
    """Have a pause be of the queue that it names, and of no other."""

    dependencies = [
        ("background_task", "0011_retry"),
    ]

    operations = [
        migrations.RunPython(
            compare_to_the_letter,
            migrations.RunPython.noop,
            atomic=False,  # there a table is changed outside of transactions only
            hints={"model_name": "control"},  # for a router
        ),
    ]
