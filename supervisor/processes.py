"""What does the operating system know of our processes?

Reads /proc on Linux and psutil elsewhere. Nothing here waits.
"""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import psutil

from .procfs import ROOT

_PF_FORKNOEXEC = 0x40
_LOOKS = 5  # at the children of a process whose threads end meanwhile

# Every process of a runner carries this in its environment, what its tasks start too.
MARK = "BACKGROUND_TASK_RUNNER"

# What the titles of all our processes begin with.
TITLE = "background_task:"

# What opening a pid says if no process has it: the last two if a thread has.
_NO_PROCESS = errno.ESRCH, errno.EINVAL, errno.ENOENT

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MADV_COLLAPSE, _HUGE_PAGE = 25, 2 * 1024**2

# Looked up once, since every forked task asks the first: a look-up costs as much as the
# rest of what a task's process does before its task.
if _LINUX:
    _LIBC = ctypes.CDLL(None, use_errno=True)
    _prctl, _madvise = _LIBC.prctl, _LIBC.madvise
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def place() -> str:
    """Name those processes that can see one another whole, and kill one another.

    By boot, pid namespace and user: two containers may share host name and boot id, and
    yet see different pids; of another user's process nobody but root reads the mark.
    """
    if not _LINUX:
        return f"{platform.node()}:{int(psutil.boot_time())}:{os.geteuid()}"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}:{os.stat('/proc/self/ns/pid').st_ino}:{os.geteuid()}"


@contextlib.contextmanager
def mark_restored() -> Iterator[None]:
    """Have this process's environment carry the mark afterwards that it carries now."""
    former = os.environ.get(MARK)
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        if former is not None:
            os.environ[MARK] = former


def started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None when there is none.

    Pid and start time together name a process: a pid alone may be used again.
    A zombie is no process any more: it runs nothing and holds nothing. Nor is one of
    another user, where /proc hides it: see `presence`.
    """
    if not _LINUX:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return int(process.create_time() * 100)
        except psutil.Error:
            return None
    fields = _stat(pid)
    return int(fields[19]) if fields and not _is_zombie(fields) else None


def presence(pid: int, start: int) -> Literal["there", "gone", "hidden"]:
    """Is the process there that has this pid and started then?

    Hidden: a process has the pid, but its start time can't be read, since it is another
    user's and /proc is mounted with hidepid. It may be the one, or another.
    """
    if started(pid) == start:
        return "there"
    return "hidden" if _is_hidden(pid) else "gone"


def is_alive(pid: int) -> bool:
    """Does a process with this pid run, hidden or not? A zombie does not."""
    return started(pid) is not None or _is_hidden(pid)


def children(pid: int) -> set[int]:
    """Return the direct children of a process, zombies included."""
    if not _LINUX:
        return _children_by_parent(pid)
    found: set[int] = set()
    for _ in range(_LOOKS):
        try:
            for thread in os.listdir(f"{ROOT}/{pid}/task"):
                path = f"{ROOT}/{pid}/task/{thread}/children"
                with open(path, encoding="ascii") as file:
                    found.update(map(int, file.read().split()))
        except PermissionError:  # it is hidden
            return found
        except (FileNotFoundError, ProcessLookupError):
            if not os.path.exists(f"{ROOT}/{os.getpid()}/task/{os.getpid()}/children"):
                return _children_by_parent(pid)  # a kernel without PROC_CHILDREN
            if not os.path.exists(f"{ROOT}/{pid}"):
                return found
            # A thread has ended, and another one has its children now.
        else:
            return found
    return found


def is_dead(pid: int) -> bool:
    """Has a child of this process ended? It stays to be reaped."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


def name(pid: int) -> str:
    """Return a process's name as `ps` shows it; "?" if it can't be had."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "?"


def threads(pid: int) -> int:
    """Return how many threads a process has, native ones too; 0 if it is gone."""
    try:
        return int(psutil.Process(pid).num_threads())
    except psutil.Error:
        return 0


def resident(pid: int) -> int:
    """Return the resident bytes of a process, shared and mapped ones too; 0: gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def is_unexecuted_fork(pid: int) -> bool:
    """Was it forked, and has it executed no other program since?"""
    fields = _stat(pid)
    return bool(fields) and bool(int(fields[6]) & _PF_FORKNOEXEC)


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    found = {pid}
    heads = [pid]
    while heads:
        head = heads.pop()
        yield head
        fresh = children(head) - found
        found |= fresh
        heads.extend(fresh)


def marked(runner: str) -> Iterator[int]:
    """Yield every living process, but this one, that carries a runner's mark."""
    mark = f"{MARK}={runner}"
    for pid in psutil.pids():
        if pid != os.getpid() and started(pid) is not None and _carries(pid, mark):
            yield pid


def adopt_orphans(yes: bool = True) -> None:
    """Become the parent of what our descendants leave behind, or cease to be."""
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def signal_at_parents_death(number: int) -> None:
    """Have this process sent a signal when the one that started it is gone."""
    if _LINUX:
        _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def collapse_heap() -> None:
    """Have this process's heap in huge pages where it can be, if the kernel can do it.

    A fork copies the page tables of the heap, and an exit takes them down: a huge page
    has one entry instead of 512. What is written to is still copied by small pages.
    """
    if not _LINUX:
        return
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, *_, inode = line.split()[:5]
        name = line.split()[5:]
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            first, end = (int(address, 16) for address in span.split("-"))
            first = -(-first // _HUGE_PAGE) * _HUGE_PAGE
            size = end // _HUGE_PAGE * _HUGE_PAGE - first
            if size > 0:
                _madvise(
                    first, size, _MADV_COLLAPSE
                )  # Linux 6.1; else it changes nothing


def handle(pid: int) -> int | None:
    """Return a pidfd of an own, not yet reaped child; None where there are none.

    Raises OSError when no more descriptors are to be had.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):  # an old kernel, or seccomp
            return None
        raise


def send_signal(pid: int, pidfd: int | None, number: int) -> bool:
    """Signal a process by its pidfd, so that it can never be a recycled pid.

    Returns False if that is not allowed: the process has become another user's, as by
    a setuid program, and is out of our reach.
    """
    try:
        if pidfd is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass  # it died before we asked
    except PermissionError:
        return False
    return True


def kill_supervisor(pid: int, start: int) -> None:
    """Kill another supervisor, if pid and start time still name it.

    A process whose title says that it is none any more has ended its run and gone on
    to something else: it holds nothing.
    """
    try:
        pidfd = handle(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:  # it is gone: that is what was wanted
            return
        raise
    try:
        if started(pid) == start and _title(pid).startswith(TITLE):
            send_signal(pid, pidfd, signal.SIGKILL)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes that are known by more than their pid: by mark, or as children.

    Those that have become another user's go on.
    """
    for pid in pids:
        send_signal(pid, None, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """Return /proc/PID/stat from its third field on: state, ppid, ..."""
    try:
        with open(f"{ROOT}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or hidden
        return []


def _is_zombie(fields: list[str]) -> bool:
    """Has it ended? Not if only its first thread has, which looks the same."""
    state, threads = fields[0], int(fields[17])
    return state == "X" or (state == "Z" and threads <= 1)


def _is_hidden(pid: int) -> bool:
    """Is there a process with this pid of which /proc says nothing?"""
    if not _LINUX or _stat(pid):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return bool(not _stat(pid))  # otherwise it has just begun


def _title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _carries(pid: int, mark: str) -> bool:
    if not _LINUX:
        try:
            name, _, value = mark.partition("=")
            return psutil.Process(pid).environ().get(name) == value
        except psutil.Error:
            return False
    try:
        environ = Path(f"{ROOT}/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # it ended, or is another user's and so none of ours
    return mark.encode() in environ.split(b"\0")


def _children_by_parent(pid: int) -> set[int]:
    try:
        return {child.pid for child in psutil.Process(pid).children()}
    except psutil.Error:
        return set()
