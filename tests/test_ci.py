"""Does .ci/run end as what it runs has ended?"""

import os
import subprocess

import pytest

from .test_architecture import ROOT

STUBS = ("make", "apt-get", "chromedriver")


@pytest.fixture
def ci(tmp_path):
    """Return a function that runs it with a `make` that fails for what it is told."""

    def run(fails_for="nothing of this"):
        for name in STUBS:
            stub = tmp_path / name
            stub.write_text(f'#!/bin/sh\ncase "$*" in *"{fails_for}"*) exit 2; esac\n')
            stub.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            [ROOT / ".ci" / "run"],
            env=os.environ | {"PATH": path, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    return run


def test_it_passes_if_all_does(ci, tmp_path):
    done = ci()

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(STUBS)


@pytest.mark.parametrize(
    "part", ["lint", "--require mariadb", "-m lifecycle", "--only mariadb"]
)
def test_it_fails_with_any_part(ci, part):
    assert ci(part).returncode != 0
