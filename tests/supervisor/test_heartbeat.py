"""The file that says that the loop goes on."""

import json
import os

from background_task.supervisor.heartbeat import Heartbeat
from background_task.supervisor.queue import Runner

RUNNER = Runner("r", "host", "place", 1, 1)


def test_it_follows_no_link_that_somebody_has_laid(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    path = tmp_path / "beat"
    path.with_name(f"beat.{os.getpid()}").symlink_to(precious)

    heartbeat = Heartbeat(str(path))
    heartbeat.begin()
    heartbeat.beat(RUNNER, "", "")

    assert precious.read_text() == "kept"
    assert json.loads(path.read_text())["pid"] == 1
    assert not path.is_symlink()


def test_what_a_killed_one_has_left_behind_is_no_hindrance(tmp_path):
    path = tmp_path / "beat"
    path.with_name(f"beat.{os.getpid()}").write_text("half a li")

    Heartbeat(str(path)).begin()

    assert path.read_text() == ""
