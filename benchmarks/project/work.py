"""What the tasks do. Each leaves a record; all packages run these same functions."""

import os
import time
from pathlib import Path

from benchmarks.records import FORMAT


def noop(number: int) -> None:
    """Leave a record, and nothing else."""
    _leave_record(number, time.monotonic())


def orm(number: int) -> None:
    """Read a row and write it, then leave a record."""
    from .models import Row

    row = Row.objects.get(pk=number % 64 + 1)
    row.counter += 1
    row.save()
    _leave_record(number, time.monotonic())


def hold(number: int) -> None:
    """Leave a record, then run on until the file `release` is there."""
    _leave_record(number, time.monotonic())
    release = Path(os.environ["BENCH_RECORDS"]).with_name("release")
    give_up_at = time.monotonic() + 60
    while not release.exists() and time.monotonic() < give_up_at:
        time.sleep(0.05)


def hog(number: int) -> None:
    """Take memory as fast as it can be touched, with a record of each 4 MiB."""
    held = []
    for size in range(4, 4_000, 4):
        held.append(b"x" * (4 << 20))
        _leave_record(size, time.monotonic())


def _leave_record(number: int, at: float) -> None:
    # O_APPEND: sixteen bytes at once, from any process.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    file = os.open(os.environ["BENCH_RECORDS"], flags, 0o644)
    os.write(file, FORMAT.pack(number, os.getpid(), at))
    os.close(file)
