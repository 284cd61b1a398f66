"""What a process tree holds is counted once, and only what it really holds."""

import contextlib
import subprocess
import sys

import pytest

from background_task.supervisor import memory

MIB = 1024 * 1024

SAY_AND_WAIT = "print('ready', flush=True); input()"
HOLD = "held = bytearray(60 << 20); held[::4096] = b'x' * len(held[::4096]);"
SHARE = (
    "import mmap; held = mmap.mmap(-1, 60 << 20)\n"
    "for at in range(0, len(held), 4096): held[at] = 1\n"
)
MAP = (
    "import mmap; file = open(%r, 'r+b');\n"
    "file.truncate(60 << 20); held = mmap.mmap(file.fileno(), 60 << 20)\n"
    "for at in range(0, len(held), 4096): held[at]\n"
)


@pytest.fixture
def holding():
    """Return a function that runs code in a process and returns its pid."""
    with contextlib.ExitStack() as stack:

        def holding(code):
            process = subprocess.Popen(
                [sys.executable, "-c", code + SAY_AND_WAIT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.readline() == b"ready\n"
            return process.pid

        yield holding


def test_what_a_process_allocates_and_touches_is_counted(holding):
    assert 60 * MIB < memory.of_tree(holding(HOLD)) < 120 * MIB


def test_what_a_process_shares_is_counted(holding):
    assert 60 * MIB < memory.of_tree(holding(SHARE)) < 120 * MIB


def test_a_mapped_file_is_not_counted(holding, tmp_path):
    path = tmp_path / "file"
    path.touch()

    assert memory.of_tree(holding(MAP % str(path))) < 60 * MIB


def test_what_its_children_hold_is_counted(holding):
    code = (
        "import subprocess, sys\n"
        f"code = {HOLD + SAY_AND_WAIT!r}\n"
        "pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child = subprocess.Popen([sys.executable, '-c', code], **pipes)\n"
        "child.stdout.readline();"
    )

    assert 60 * MIB < memory.of_tree(holding(code)) < 140 * MIB


def test_a_kernel_that_knows_shares_but_not_their_kinds_counts_all(
    holding, tmp_path, monkeypatch
):
    """As Linux did before 5.3."""
    pid = holding("")
    (tmp_path / f"{pid}").mkdir()
    written = {
        "smaps_rollup": "a line\nPss: 7 kB\nSwapPss: 1 kB",
        "status": "RssAnon: 5",
    }
    for name, text in written.items():
        (tmp_path / f"{pid}" / name).write_text(text)
    monkeypatch.setattr(memory, "ROOT", str(tmp_path))

    assert memory.own_of_tree(pid, pid) == 5 * 1024


def test_the_dead_hold_nothing():
    process = subprocess.Popen(["true"])
    process.wait()

    assert memory.of_tree(process.pid) == 0
