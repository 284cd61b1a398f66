"""How much memory and how many processors may this container have, and what of it?

Reads control groups, v2 and v1, and never writes to them: nobody but root may.
"""

import os
from pathlib import Path

_ROOT = "/sys/fs/cgroup"
# What the kernel drops when it needs the memory, as `memory.stat` has it.
_DROPPED = ["inactive_file", "active_file", "slab_reclaimable"]
_NO_LIMIT = 1 << 60  # v1 has a number near 2**63 for none


class Container:
    """The control groups that this process is in, each with those above it."""

    def __init__(
        self, root: str | Path = _ROOT, membership: str | Path = "/proc/self/cgroup"
    ) -> None:
        """The paths are the kernel's; a test has others."""
        self._root = Path(root)
        unified, by_controller = _groups(Path(membership))
        is_v2 = (self._root / "cgroup.controllers").exists()
        self._memory_v2 = _chain(self._root, unified) if is_v2 else []
        self._memory_v1 = _chain(self._root / "memory", by_controller.get("memory"))
        self._oom_file = self._file_of_oom_kills()
        self._cpu_v2 = self._memory_v2
        self._cpu_v1 = _chain(self._root / "cpu", by_controller.get("cpu"))

    def memory_limit(self) -> int | None:
        """Return the bytes that all its processes may hold together; None: no limit.

        It is the lowest one of the groups that it is in.
        """
        limit, _ = self._tightest()
        return limit

    def memory_used(self) -> int | None:
        """Return the bytes that are held under that limit and can't just be dropped."""
        _, group = self._tightest()
        if group is None:
            return None
        for current, dropped in (
            ("memory.current", _DROPPED),
            ("memory.usage_in_bytes", [f"total_{name}" for name in _DROPPED]),
        ):
            used = _number(group / current)
            if used is not None:
                lines = (line.split() for line in _lines(group / "memory.stat"))
                stat = {name: int(value) for name, value in lines}
                return max(0, used - sum(stat.get(name, 0) for name in dropped))
        return None

    def _tightest(self) -> tuple[int | None, Path | None]:
        """Return the lowest limit and its group; without any, the innermost group."""
        limits = [(_number(group / "memory.max"), group) for group in self._memory_v2]
        for group in self._memory_v1:
            limits.append((_number(group / "memory.limit_in_bytes"), group))
        real = [(n, group) for n, group in limits if n is not None and n < _NO_LIMIT]
        if real:
            return min(real, key=lambda limit: limit[0])
        return None, limits[0][1] if limits else None

    def oom_kills(self) -> int | None:
        """Return how many of its processes the kernel has killed for memory so far.

        None where that is not counted.
        """
        return None if self._oom_file is None else _field(self._oom_file, "oom_kill")

    def _file_of_oom_kills(self) -> Path | None:
        files = [group / "memory.events" for group in self._memory_v2]
        files += [group / "memory.oom_control" for group in self._memory_v1]
        return next((file for file in files if file.exists()), None)

    def processors(self) -> int:
        """Return how many processors it may use at a time, at least 1."""
        quotas = [_quota_v2(group / "cpu.max") for group in self._cpu_v2]
        quotas += [_quota_v1(group) for group in self._cpu_v1]
        allowed = float(_usable_processors())
        return max(1, int(min([allowed, *(q for q in quotas if q is not None)])))


def host_memory() -> int:
    """Return the bytes of memory that this host has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(membership: Path) -> tuple[str | None, dict[str, str]]:
    """Return the path in the unified hierarchy, and those by controller of v1."""
    unified, by_controller = None, {}
    for line in _lines(membership):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            unified = path
        for controller in controllers.split(","):
            by_controller[controller] = path
    return unified, by_controller


def _chain(root: Path, path: str | None) -> list[Path]:
    """Return a group's folder and those above it, the innermost first.

    In a container the path is often that of the host, where only the root can be seen.
    """
    if path is None or not root.is_dir():
        return []
    folder = root / path.lstrip("/")
    if ".." in folder.parts or not folder.is_dir():
        folder = root
    inner = [folder, *folder.parents]
    return inner[: inner.index(root) + 1]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """Return a file's number; None if there is none, as in "max"."""
    for line in _lines(path):
        return int(line) if line.isdecimal() else None
    return None


def _field(path: Path, name: str) -> int:
    """Return a number of a file of names and numbers; 0 if it is not there."""
    for line in _lines(path):
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _quota_v2(path: Path) -> float | None:
    for line in _lines(path):
        quota, _, period = line.partition(" ")
        return int(quota) / int(period) if quota.isdecimal() else None
    return None


def _quota_v1(group: Path) -> float | None:
    quota, period = (
        _number(group / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    return quota / period if quota and period else None
