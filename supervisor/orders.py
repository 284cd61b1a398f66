"""What do people ask of the runner, and what is written for them to see?

Done in the bookkeeper's process, at its desk. None of it may stop the books.
"""

import logging
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from . import clock
from .channel import Channel, Message
from .queue import Orders, Queue, QueueBusy, is_away

logger = logging.getLogger("background_task.supervisor")

_READ_EVERY = 0.25  # seconds between two looks at most, beside those before claims
_AT_LEAST_EVERY = 1.0  # seconds, though nothing else is to be done
_SETTLE_EVERY = 1.0  # seconds between two times that what is pointless is settled
_AFTER_ERROR = 10.0  # seconds until what went wrong is tried again
# Seconds until what another had locked is tried again: each time it is waited for, and
# nothing else is done meanwhile.
_BUSY_FOR = 5.0


class OrderDesk:
    """Passes on what is asked of the runner and its tries, and writes the answers."""

    def __init__(self, channel: Channel, queue: Queue) -> None:
        self._channel = channel
        self._queue = queue
        # Have they been read? Until then it is not known what is paused.
        self.known = False
        self.called = False  # there are new ones
        self._orders = Orders()
        self._read_at = self._settle_at = self._show_at = self._rests_until = 0.0
        self._state: Message | None = None  # what runs
        self._answers: dict[tuple[Any, Any], Message] = {}  # the last of each

    def heed(self, message: Message) -> None:
        """Take what is to be shown, in place of what was to be before."""
        if message["kind"] == "state":
            self._state = message
        else:
            self._answers[message["verb"], message["claim"]] = message

    def next_moment(self) -> float:
        """Return when a turn is due for it."""
        read_at = self._read_at
        if self.called:
            read_at = 0.0
        elif self.known:
            read_at += _AT_LEAST_EVERY - _READ_EVERY
        read_at = max(read_at, self._rests_until)
        return min(read_at, self._show_at) if self._shows else read_at

    @property
    def due(self) -> bool:
        return self.called or self._read_at <= clock.now()

    def read(self, held: Collection[str]) -> bool:
        """Pass on what is new of what is asked for; return whether a pause is."""
        if clock.now() < self._rests_until:
            return False
        self.called, self._read_at = False, clock.now() + _READ_EVERY
        try:
            orders = self._queue.orders(held)
        except Exception as error:
            if is_away(error):
                raise
            text = "Orders (stop, pause, drain) could not be read"
            self._rests_until = _told(error, text)
            return False
        former, self._orders, self.known = self._orders, orders, True
        if orders != former or orders.stack:  # which may be asked for again
            self._channel.send("orders", **asdict(orders))
        return orders.paused != former.paused

    def settle(self, held: Collection[str]) -> bool:
        """Have done with what no runner will do; return whether tasks may be cancelled.

        Once a second at most, and a bounded number of them.
        """
        if not self._orders.pointless or clock.now() < self._settle_at:
            return False
        self._settle_at = clock.now() + _SETTLE_EVERY
        try:
            return bool(self._queue.settle_orders(held))
        except Exception as error:
            if is_away(error):
                raise
            text = "Orders (stop, pause, drain) could not be marked done"
            self._settle_at = _told(error, text)
            return True  # some of them may have been

    def show(self) -> None:
        """Write what people look at; what is refused is not worth a second try."""
        if not self._shows or clock.now() < self._show_at:
            return
        try:
            self._write()
        except QueueBusy:
            self._show_at = clock.now() + _BUSY_FOR
        except Exception as error:
            if is_away(error):
                raise
            text = (
                "The state for tasks_status and the dashboard could not be written: %s"
            )
            logger.warning(text, error)
            self._state = None
            self._answers.clear()

    @property
    def _shows(self) -> bool:
        return self._state is not None or bool(self._answers)

    def _write(self) -> None:
        """Forget each when it is written."""
        if (state := self._state) is not None:
            self._queue.report(state["running"], draining=state["draining"])
            self._state = None
        for key, answer in list(self._answers.items()):
            self._queue.answer(answer["verb"], answer["claim"], answer["what"])
            del self._answers[key]


def _told(error: Exception, text: str) -> float:
    """Tell of what went wrong; return until when it is to be let be."""
    if isinstance(error, QueueBusy):
        logger.warning("%s yet: another session has locked a row: %s", text, error)
        return clock.now() + _BUSY_FOR
    logger.exception(text)
    return clock.now() + _AFTER_ERROR
