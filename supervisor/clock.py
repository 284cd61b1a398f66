"""What time is it, for limits and leases?"""

import time

# The boot-time clock goes on while the host sleeps and never jumps; every process of
# one host reads the same. macOS has no such clock, its monotonic one comes closest.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return this moment in seconds; comparable between the processes of one host."""
    return time.clock_gettime(_CLOCK)
