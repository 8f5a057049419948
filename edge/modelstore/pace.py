"""How fast a download may be: it shares the line with the requests of the appliance."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Keeps one download at a rate from its begin. kbps: kilobits (1000 bits) a second.

    A sender notices through TCP that we do not read, so nothing piles up in between.
    """

    def __init__(
        self,
        kbps: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.kbps = kbps
        self._rate = kbps * 1000 / 8
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    def charge(self, size: int) -> None:
        """Wait for as long as `size` bytes should have taken since the last call.

        Time in which nothing came is not made up for: a stalled line is not followed by a flood.
        """
        now = self._clock()
        self._free_at = max(self._free_at + size / self._rate, now)
        if self._free_at > now:
            self._sleep(self._free_at - now)
