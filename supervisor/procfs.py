"""Where is the /proc that has this process's pids?

In a pid namespace whose /proc nobody has mounted (`unshare --pid --fork`, without
`--mount-proc`), /proc has the pids of another namespace: what is read of a pid there is
told of some other process. The kernel makes a fitting one for whoever may mount, and it
need not be mounted anywhere: it is reached through a descriptor.
"""

import ctypes
import os
import sys

import psutil

from .options import OptionError

# Of Linux 5.2, the same on every architecture.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _CREATE = 1, 6


def _find() -> str:
    if sys.platform != "linux" or fits("/proc"):
        return "/proc"
    mount = _mounted_nowhere()
    own = f"/proc/self/fd/{mount}"  # "self" is right in whichever namespace
    if mount < 0 or not fits(own):
        return "/proc"
    psutil.PROCFS_PATH = own
    return own


def fits(root: str) -> bool:
    """Has it this process under its own pid? True where there is none at all."""
    try:
        return os.readlink(f"{root}/self") == str(os.getpid())
    except OSError:
        return True


def check() -> None:
    """Raise OptionError where nothing true could be known of any process."""
    if not fits(ROOT):
        raise OptionError(
            "/proc is that of another pid namespace, in which this process is "
            f"{os.readlink('/proc/self')} and not {os.getpid()}: mount one of its own "
            "(unshare --mount-proc; mount -t proc proc /proc)"
        )


def _mounted_nowhere() -> int:
    """Return the descriptor of a new /proc, which stays open; -1 if it is not allowed.

    Forked children inherit it.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    context = call(_FSOPEN, b"proc", _CLOEXEC)
    if context < 0:
        return -1
    try:
        if call(_FSCONFIG, context, _CREATE, None, None, 0) < 0:
            return -1
        return int(call(_FSMOUNT, context, _CLOEXEC, 0))
    finally:
        os.close(context)


ROOT = _find()
