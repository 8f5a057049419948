"""The bounded way from the network's thread to the event loop.

MQTT 5's Receive Maximum bounds messages of QoS 1; what bounds those of QoS 0, and the bytes of
both, is that the network's thread waits here: the broker's connection fills up, and the broker
keeps what it cannot send.
"""

from __future__ import annotations

import asyncio
import threading

MOST_MESSAGES = 256
MOST_BYTES = 32 * 1024 * 1024


class Room:
    """What one message takes; it is given back once, however often it is said so. Made and used in
    the event loop, which may wait for it: `given_back`."""

    def __init__(self, handover: Handover, size: int) -> None:
        self._handover: Handover | None = handover
        self._size = size
        self.given_back = asyncio.Event()

    def give_back(self) -> None:
        self.given_back.set()
        handover, self._handover = self._handover, None
        if handover is not None:
            handover.give_back(self._size)


class Handover:
    """`take` in the network's thread, `give_back` anywhere when a message has been dealt with."""

    def __init__(self, most_messages: int = MOST_MESSAGES, most_bytes: int = MOST_BYTES) -> None:
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._messages = self._bytes = 0
        self._open = True
        self._changed = threading.Condition()

    def take(self, size: int) -> bool:
        """Wait until there is room; a single message always fits. False when it has closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._fits(size))
            if self._open:
                self._messages += 1
                self._bytes += size
            return self._open

    def give_back(self, size: int) -> None:
        with self._changed:
            self._messages -= 1
            self._bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._messages == 0 or (
            self._messages < self._most_messages and self._bytes + size <= self._most_bytes
        )
