"""What does a runner, with all that it starts, hold and use?"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil


def tree(roots: Iterable[int]) -> list[int]:
    """Return the processes and all their descendants."""
    found: list[int] = []
    for root in roots:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            found += [root, *(p.pid for p in process.children(recursive=True))]
    return found


def memory(pids: Iterable[int], kind: str) -> int:
    """Return the bytes that they hold: `pss`, or `uss` (what is theirs alone)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += getattr(psutil.Process(pid).memory_full_info(), kind)
    return total


def cpu(pids: Iterable[int]) -> float:
    """Return the seconds that they have used, to the nanosecond."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def marked(name: str, value: str) -> list[psutil.Process]:
    """Return the living processes whose environment has this."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value and process.pid != os.getpid():
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill what is left, and wait until it is gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def settle(roots: Iterable[int], patience: float = 15.0) -> None:
    """Wait until they have done with starting: until they use hardly any CPU."""
    give_up_at = time.monotonic() + patience
    used = cpu(tree(roots))
    while time.monotonic() < give_up_at:
        time.sleep(0.5)
        before, used = used, cpu(tree(roots))
        if 0 <= used - before < 0.05:
            return
