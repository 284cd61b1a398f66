"""What does a job's process find around it, and what may it not do?"""

import contextlib
import os
import tempfile
from pathlib import Path

from . import witness
from .job import Job, Limits

# Of 1000: when the host or the container is out of memory, the kernel takes it before
# its supervisor.
_OOM_SCORE = 800


class Sandbox:
    """What is set for each job of a process. Runs in it, in its main thread."""

    def __init__(self) -> None:
        # Does this process answer the signal that asks where it is?
        self.tells_its_stack = False
        self._cpu_before = 0.0
        self._folder = os.environ.get("TMPDIR")  # where a job has none of its own
        self._is_nice = False
        self._data_limit: tuple[int, int] | None = None  # from before it was lowered

    def take(self, job: Job, fds: list[int], folder: str | None) -> None:
        """Be ready for a job.

        The `fds` are for its output and its stack, the `folder` is for its temporary
        files.
        """
        if len(fds) == 2:
            witness.begin(*fds)
            self.tells_its_stack = True
        _keep_temporary_files_in(folder or self._folder)
        self._cpu_before = _cpu()
        self._add_niceness(job.limits.nice)
        self._limit_data(job.limits)

    def cpu(self) -> float:
        """Return the seconds of CPU that the job has taken, with its dead children."""
        return _cpu() - self._cpu_before

    def _add_niceness(self, nice: int) -> None:
        if nice and not self._is_nice:
            self._is_nice = True
            os.nice(nice)

    def _limit_data(self, limits: Limits) -> None:
        """Have an allocation beyond the limit raise MemoryError, if that is wanted."""
        wanted = limits.hard_memory and limits.memory is not None
        if not wanted and self._data_limit is None:
            return
        import resource

        if self._data_limit is None:
            self._data_limit = resource.getrlimit(resource.RLIMIT_DATA)
        soft, hard = self._data_limit
        if wanted and limits.memory is not None:
            most = _data_size() + limits.memory
            soft = most if soft == resource.RLIM_INFINITY else min(most, soft)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _cpu() -> float:
    import resource  # there is none on Windows

    own = resource.getrusage(resource.RUSAGE_SELF)
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + dead.ru_utime + dead.ru_stime


def _keep_temporary_files_in(folder: str | None) -> None:
    if folder == os.environ.get("TMPDIR"):
        return
    if folder is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = folder
    tempfile.tempdir = None  # what was found before


def offer_to_the_kernel() -> None:
    """Be the first to be killed for memory; to be less likely is not allowed."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < _OOM_SCORE:
            file.write(str(_OOM_SCORE))


def _data_size() -> int:
    """Return the bytes that count for RLIMIT_DATA already: the template's heap."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
