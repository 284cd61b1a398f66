"""What does a process tree hold?"""

import psutil

from . import processes

_COUNTED = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


def of_tree(pid: int) -> int:
    """Return the bytes that a process and its descendants hold; 0 when it is gone.

    Counts anonymous, shared and swapped memory. A mapped file is not counted: the
    kernel can drop it at any time, so a task must not die of it.
    """
    return sum(map(_of_process, processes.tree(pid)))


def _of_process(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return _resident(pid)
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED)
    )


def _resident(pid: int) -> int:
    """Return the resident memory where there is no /proc; 0 for a dead process."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
