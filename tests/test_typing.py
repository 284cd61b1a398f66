"""What mypy, strict, says about a user's project; and that the types tell the truth."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import TestCase

from background_task.tasks import Tasks

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(400)  # mypy reads Django's stubs, on a machine that may be busy
def test_a_users_project_is_clean_where_it_is_right_and_refused_where_it_is_wrong(
    tmp_path,
):
    for module in ("mypy", "mypy_django_plugin"):
        pytest.importorskip(module, reason=f"{module} is not installed: types untested")

    # Lines that are wrong are marked `type: ignore[...]`, and mypy, strict, tells of
    # every mark that is not needed.
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict"),
            *("--cache-dir", str(tmp_path), "--package", "shop"),
        ],
        cwd=ROOT / "tests" / "typed_project",
        # As if the package were installed: mypy does not see an editable install.
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    said = checked.stdout + checked.stderr
    assert said.strip() == "Success: no issues found in 7 source files"


class CallTests(TestCase):
    """What a call says counts, whatever it is; the types promise no less."""

    def test_what_a_call_says_beats_the_decorator(self):
        @Tasks().background(
            name="job",
            schedule={"priority": 5},
            queue="mail",
            remove_existing_tasks=True,
        )
        def job(): ...

        first = job()
        second = job(priority=0, queue=None, remove_existing_tasks=False)

        self.assertEqual((first.priority, first.queue), (5, "mail"))
        self.assertEqual((second.priority, second.queue), (0, None))
        first.refresh_from_db()  # it is still there
