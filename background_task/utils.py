"""What other packages import from upstream's `utils`."""

import signal
import sys
from types import FrameType

TTW_SLOW = [0.5, 1.5]
TTW_FAST = [0.0, 0.1]


class SignalManager:
    """Turn signals into `kill_now` and `time_to_wait` (least and most seconds).

    Where there is SIGTSTP: it asks to stop, SIGUSR1 to wait less between tasks, SIGUSR2
    to wait more. On Windows SIGTERM asks to stop.
    """

    kill_now = False
    time_to_wait = TTW_FAST

    def __init__(self) -> None:
        if sys.platform == "win32":
            signal.signal(signal.SIGTERM, self.exit_gracefully)
        else:
            signal.signal(signal.SIGTSTP, self.exit_gracefully)
            signal.signal(signal.SIGUSR1, self.speed_up)
            signal.signal(signal.SIGUSR2, self.slow_down)

    def exit_gracefully(self, signum: int, frame: FrameType | None) -> None:
        """Note that somebody asked to stop after the current task."""
        self.kill_now = True

    def speed_up(self, signum: int, frame: FrameType | None) -> None:
        """Wait less between tasks."""
        self.time_to_wait = TTW_FAST

    def slow_down(self, signum: int, frame: FrameType | None) -> None:
        """Wait more between tasks."""
        self.time_to_wait = TTW_SLOW
