"""How does the loop wait for many channels at once?"""

import contextlib
import selectors
from typing import Any, Protocol, Self

from . import clock
from .channel import Channel


class HasFileno(Protocol):
    """What the operating system can wait for."""

    def fileno(self) -> int: ...


class Watch:
    """Waits until a channel says something, has room again, or a moment has come."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._channels: set[Channel] = set()
        self.ready: set[Any] = set()  # what had something to say at the last wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._selector.close()

    def listen(self, file: HasFileno) -> None:
        """Wake up when there is something to read of what is no channel too."""
        self._selector.register(file, selectors.EVENT_READ)

    def ignore(self, file: HasFileno) -> None:
        """Do so no more, before it is closed; a second time is fine."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    def add(self, channel: Channel) -> None:
        self._selector.register(channel, selectors.EVENT_READ)
        self._channels.add(channel)

    def forget(self, channel: Channel) -> None:
        """Have done with a channel, before it is closed; a second time is fine."""
        if channel in self._channels:
            self._channels.discard(channel)
            self._selector.unregister(channel)

    def wait(self, until: float) -> None:
        """Wait, at the longest until a moment; send what there is room for."""
        for channel in self._channels:
            events = selectors.EVENT_READ
            if channel.waiting_to_send:
                events |= selectors.EVENT_WRITE
            if self._selector.get_key(channel).events != events:
                self._selector.modify(channel, events)
        found = self._selector.select(max(0.0, until - clock.now()))
        self.ready = {key.fileobj for key, _ in found}
        for channel in self._channels:
            channel.flush()
