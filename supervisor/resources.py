"""How many files may we open, and what is to be said when no more are to be had?"""

import contextlib
import errno
import os
from collections.abc import Iterator

from .options import OptionError

# What a task's process finds as the soft RLIMIT_NOFILE, if ours was raised.
_FORMER = "BACKGROUND_TASK_OPEN_FILES"

# A channel, the output, the stack; then a pidfd, or the two pipes of a spawned process.
_PER_SLOT = 5
_OTHERS = 64  # the aides, the log, what the project and Python open now and then


@contextlib.contextmanager
def files_for(workers: int) -> Iterator[None]:
    """Have room for the open files of a supervisor, its soft limit raised if need be.

    Raises OptionError if the hard limit does not allow it.
    """
    former, hard = _limits()
    needed = len(os.listdir("/dev/fd")) + _OTHERS + (workers + 1) * _PER_SLOT
    if _allows(former, needed):
        yield
        return
    try:
        if not _allows(hard, needed):
            raise ValueError
        _set(needed, hard)
    except (OSError, ValueError):  # macOS has a limit of its own beside the hard one
        raise OptionError(
            f"{workers} workers need {needed} open files, and no more than {hard} may "
            "be had (the hard limit, RLIMIT_NOFILE): ask for fewer --workers, or raise "
            "it (ulimit -Hn; LimitNOFILE= of systemd; --ulimit nofile= of a container)"
        ) from None
    os.environ[_FORMER] = str(former)
    try:
        yield
    finally:
        del os.environ[_FORMER]
        _set(former, hard)


def restore_files() -> None:
    """Have the soft limit from before. Runs in a task's process: it may `select()`."""
    if former := os.environ.get(_FORMER):
        _, hard = _limits()
        _set(int(former), hard)


def dump_no_core() -> None:
    """Have no process that is started from here write a core file when it crashes.

    The container's disk would fill with what was a task's memory.
    """
    import resource

    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def read_nothing() -> None:
    """Have stdin at its end, for what is started from here too."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def fill_standard_streams() -> None:
    """Open what of stdin, stdout and stderr is closed.

    Otherwise a channel would get that descriptor, and what writes to stdout without
    asking Python would write to it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class Reserve:
    """Two open files to do without, so that /proc can be read when no more are free.

    They are given up within the block. Forked children inherit them, without harm.
    """

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    def __enter__(self) -> None:
        self.close()

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # somebody else was faster: next time
            self._fill()

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _fill(self) -> None:
        while len(self._fds) < 2:
            self._fds.append(os.open(os.devnull, os.O_RDONLY))


def explained(error: OSError) -> str:
    """Return its text with the limit that was hit, and what to do about it."""
    match error.errno:
        case errno.EMFILE:
            soft, _ = _limits()
            why = f"RLIMIT_NOFILE is {soft}: raise it (ulimit -n; LimitNOFILE=)"
        case errno.ENFILE:
            why = "the host's limit, fs.file-max: raise it"
        case errno.EAGAIN:
            soft, _ = _limits("RLIMIT_NPROC")
            why = (
                f"RLIMIT_NPROC is {_shown(soft)}, and a container or a unit may have "
                "a lower one (pids.max; TasksMax=): raise it"
            )
        case errno.ENOMEM:
            why = "no memory is left: give it more"
        case _:
            return str(error)
    return f"{error} ({why}, or have fewer workers)"


def _limits(name: str = "RLIMIT_NOFILE") -> tuple[int, int]:
    """Return the soft and the hard limit; -1 is none."""
    import resource  # there is none on Windows, where this module is only imported

    return resource.getrlimit(getattr(resource, name))


def _set(soft: int, hard: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _allows(limit: int, needed: int) -> bool:
    return not 0 <= limit < needed


def _shown(limit: int) -> str:
    return "unlimited" if limit < 0 else str(limit)
