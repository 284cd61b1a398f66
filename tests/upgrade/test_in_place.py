"""From the old packages to ours and back, with a database that stays where it is.

The rows are made by the old package itself. Each starting point is one story, told
once; the tests look at what was seen on the way.
"""

from datetime import datetime
from types import SimpleNamespace

import pytest

from .tools import (
    DJANGO4,
    TABLES,
    UPSTREAM,
    Side,
    cursor_of,
    fresh_database,
    lines,
    rows_of,
    storage_of,
    tables_of,
)

TASKS, COMPLETED = TABLES
LOCAL = "1.2.8 with a migration of the project's own"
STARTS = {
    "django-background-tasks 1.2.8": (UPSTREAM, "0002"),
    "django4-background-tasks": (DJANGO4, "0004"),
    LOCAL: (UPSTREAM, "0003_alter_completedtask_id_alter_task_id"),
}
RUN = ["pending", "low", "of-a-user", "of-a-group", "large", "repeating", "missed"]


@pytest.fixture(scope="module", params=STARTS)
def story(request, old_packages, tmp_path_factory):
    package, back = STARTS[request.param]
    folder = tmp_path_factory.mktemp("story")
    with fresh_database() as database:
        old = Side(old_packages(package), database, folder)
        if request.param == LOCAL:
            old = with_a_local_migration(old, tmp_path_factory.mktemp("local"))
        yield tell(old, back)


def with_a_local_migration(old, folder):
    """Have makemigrations write into the installed package, as it did since 3.2."""
    copy = old.with_a_copy_in(folder).with_auto_field("BigAutoField")
    copy.manage("makemigrations", "background_task")
    written = copy.package / "background_task/migrations"
    assert (written / "0003_alter_completedtask_id_alter_task_id.py").exists()
    return copy


def tell(old, back):
    """Swap, migrate, run, go back, and run; return what was seen."""
    seen = SimpleNamespace(database=old.database)
    ours = old.with_ours()

    old.manage("migrate", "--verbosity=0")
    seen.made = old.do("make=old")["make"]
    seen.before, seen.storage_before = look(old)

    ours.manage("migrate", "--verbosity=0")
    seen.migrated, seen.storage_migrated = look(ours)
    seen.found = ours.do("look_up=old")["look_up"]

    seen.made_late = old.do("enqueue=late")["enqueue"]
    make_due(ours, seen.made["retrying"])
    ours.manage("process_tasks", "--until-empty", "--workers=3")
    seen.run_by_ours = lines(ours.journal)
    seen.run, _ = look(ours)

    ours.manage("process_tasks", "--until-empty", "--queue=q2", "--reclaim-pids")
    seen.reclaimed, _ = look(ours)

    seen.made_by_ours = ours.do("make=ours")["make"]
    make_due(ours, seen.made_by_ours["retrying"])
    seen.before_back, seen.storage_before_back = look(ours)
    ours.manage("migrate", "--verbosity=0", "background_task", back)
    old.manage("migrate", "--check")
    seen.back, seen.storage_back = look(old)
    seen.tables_back = tables_of(old.database)

    old.journal.unlink()
    seen.listed = old.do("list_rows", "enqueue=after", "run_due")["list_rows"]
    seen.run_by_old = lines(old.journal)

    ours.manage("migrate", "--verbosity=0")  # nothing stands in the way of going again
    return seen


def look(side):
    return rows_of(side.database), storage_of(side.database)


def make_due(side, pk):
    with cursor_of(side.database) as cursor:
        cursor.execute(
            f"UPDATE {TASKS} SET run_at = '2020-01-01 00:00:00' WHERE id = %s", [pk]
        )


def columns(rows, like):
    """Return the rows with those columns only that the others have."""
    return {
        table: {
            pk: {name: row.get(name) for name in next(iter(like[table].values()))}
            for pk, row in rows[table].items()
        }
        for table in TABLES
    }


def labelled(rows, label):
    """Return the rows whose first argument is this label."""
    return [row for row in rows.values() if f'"{label}"' in row["task_params"]]


# Up


def test_every_column_of_every_row_is_as_it_was(story):
    assert len(story.before[TASKS]) == 14
    assert len(story.before[COMPLETED]) == 3

    assert columns(story.migrated, story.before) == story.before


def test_no_table_is_rewritten(story):
    assert story.storage_migrated == story.storage_before


def test_rows_are_found_by_name_and_arguments(story):
    made, found = story.made, story.found

    assert found["pending"] == [made["pending"]]
    assert found["large"] == [made["large"]]


def test_the_actions_find_the_old_rows(story):
    made, found = story.made, story.found

    assert found["checked"] is found["moved"] is None
    assert found["later"] == [made["later"]]
    assert found["later's priority"] == made["later"]


def test_remove_existing_tasks_removes_the_old_row(story):
    assert story.found["queued"] == story.found["replaced"]
    assert story.found["queued"] != [story.made["queued"]]


def test_what_the_old_package_enqueued_runs(story):
    for kind in (*RUN, "queued", "stale"):
        ran_once(story, f"old-{kind}")


def test_what_old_code_enqueues_after_the_migration_runs(story):
    assert story.made_late.keys() == {"queued", "of-a-user"}
    for kind in story.made_late:
        ran_once(story, f"late-{kind}")


def ran_once(story, label):
    ran = [line.split()[0] for line in story.run_by_ours]
    assert ran.count(label) == 1, label
    (row,) = labelled(story.run[COMPLETED], label)
    assert (row["attempts"], row["failed_at"], row["last_error"]) == (1, None, "")


def test_the_arguments_arrive(story):
    sizes = dict(line.split() for line in story.run_by_ours)

    assert int(sizes["old-large"]) > 100_000


def test_what_a_completed_row_copies_is_what_the_old_row_said(story):
    kept = [
        "task_name",
        "task_params",
        "task_hash",
        "verbose_name",
        "priority",
        "repeat",
        "repeat_until",
        "queue",
        "creator_content_type_id",
        "creator_object_id",
    ]

    for kind in RUN:
        before = story.before[TASKS][story.made[kind]]
        (after,) = labelled(story.run[COMPLETED], f"old-{kind}")
        assert [after[name] for name in kept] == [before[name] for name in kept]


def test_a_foreign_key_to_a_task_lets_go(story):
    with cursor_of(story.database) as cursor:
        cursor.execute(
            "SELECT ready, task_id FROM exports_export WHERE name = 'old-export'"
        )

        assert [tuple(map(bool, row)) for row in cursor.fetchall()] == [(True, False)]


def test_the_retry_goes_on_counting(story):
    row = story.run[TASKS][story.made["retrying"]]

    assert story.before[TASKS][row["id"]]["attempts"] == 1
    assert row["attempts"] == 2
    assert "ValueError: old-retrying: a bad day" in row["last_error"]
    assert row["locked_by"] is None


def test_repetitions_keep_their_beat(story):
    for kind in ("repeating", "missed"):
        before = story.before[TASKS][story.made[kind]]
        (after,) = labelled(story.run[TASKS], f"old-{kind}")
        assert after["task_hash"] == before["task_hash"]
        assert after["repeat_until"] == before["repeat_until"]
        passed = (when(after) - when(before)).total_seconds()
        assert passed > 0
        assert passed % before["repeat"] == 0


def when(row):
    moment = row["run_at"]
    return moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)


def test_what_a_pid_holds_is_reclaimed_when_that_is_asked_for(story):
    assert story.made["held"] not in story.reclaimed[TASKS]

    (row,) = labelled(story.reclaimed[COMPLETED], "old-held")
    assert (row["attempts"], row["failed_at"]) == (1, None)


@pytest.mark.parametrize("kind", ["held", "unknown"])
def test_what_is_not_ours_to_run_stays(story, kind):
    pk = story.made[kind]

    assert story.run[TASKS][pk] == story.migrated[TASKS][pk]


def test_what_had_ended_stays(story):
    for pk in story.before[COMPLETED]:
        assert story.run[COMPLETED][pk] == story.migrated[COMPLETED][pk]


# Back


def test_going_back_changes_no_row(story):
    assert columns(story.before_back, story.back) == story.back


def test_going_back_rewrites_no_table(story):
    assert story.storage_back == story.storage_before_back


def test_going_back_leaves_nothing_of_ours(story):
    ours = [name for name in story.tables_back if name.startswith("background_task")]

    assert sorted(ours) == sorted(TABLES)


def test_the_old_package_reads_what_ours_wrote(story):
    made, listed = story.made_by_ours, story.listed

    assert listed["tasks"].keys() == {str(pk) for pk in story.back[TASKS]}
    assert listed["tasks"][str(made["low"])] == "Nicht so wichtig: ß"
    assert made["pending"] in listed["available"]
    assert made["held"] in listed["held"]
    assert made["retrying"] in listed["with errors"]
    completed = {pk for pk, row in story.back[COMPLETED].items() if row["failed_at"]}
    assert set(listed["failed"]) == completed
    for kind in ("user", "group", "export"):
        of = "of-an" if kind == "export" else "of-a"
        creator = listed["creators"][str(made[f"{of}-{kind}"])]
        assert creator == f"ours-{kind}"


def test_the_old_package_runs_what_ours_and_what_it_enqueued(story):
    ran = [line.split()[0] for line in story.run_by_old]
    of_ours = [f"ours-{kind}" for kind in (*RUN, "queued", "stale", "retrying")]

    for label in (*of_ours, "after-queued", "after-of-a-user"):
        assert ran.count(label) == 1, label
