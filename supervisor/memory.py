"""What does a process tree hold of its own?"""

from . import processes
from .procfs import ROOT

_COUNTED = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


def of_tree(pid: int) -> int:
    """Return the bytes that a process and its descendants hold; 0 when it is gone.

    Counts anonymous, shared and swapped memory. A mapped file is not counted: the
    kernel can drop it at any time, so a task must not die of it. What a forked process
    shares with its template is counted again for each: see `own_of_tree`.
    """
    return sum(map(of_process, processes.tree(pid)))


def own_of_tree(pid: int, template: int | None) -> int:
    """Return the bytes that a tree holds beyond what it was forked with.

    Costs more than `of_tree`, which is never less. Each page counts by the share that
    the tree has in it, and the template's heap is taken off once for every process that
    was forked from it and has executed nothing else. Heap that was inherited and
    rewritten in place is not seen.
    """
    if template is None:
        return of_tree(pid)
    total = forks = 0
    inherited = _share_of_heap(template)
    for one in processes.tree(pid):
        shares = _shares(one)
        if shares is None:
            total += of_process(one)
            continue
        total += shares["Pss_Anon"] + shares["Pss_Shmem"] + shares["SwapPss"]
        forks += processes.is_unexecuted_fork(one)
    # Each fork elsewhere makes the shares of all smaller: with one that came in between
    # a task would seem to hold what it has inherited.
    return max(0, total - forks * max(inherited, _share_of_heap(template)))


def of_process(pid: int) -> int:
    """Return what one process holds; 0 when it is gone, or hidden by /proc."""
    try:
        with open(f"{ROOT}/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return processes.resident(pid)  # where there is no /proc
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED)
    )


def _share_of_heap(pid: int) -> int:
    shares = _shares(pid)
    return 0 if shares is None else shares["Pss_Anon"]


def _shares(pid: int) -> dict[str, int] | None:
    """Return the kernel's count of a process's shares; None where there is none.

    Before Linux 5.3 it does not tell of what kind they are.
    """
    try:
        with open(f"{ROOT}/{pid}/smaps_rollup", encoding="ascii") as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return None
    sizes = (line.split() for line in lines)
    shares = {name.rstrip(":"): int(size) * 1024 for name, size, _ in sizes}
    return shares if "Pss_Anon" in shares else None
