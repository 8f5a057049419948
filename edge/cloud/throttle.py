"""How fast work that nobody waits for may use the network, both ways together.

A token bucket that may go into debt: what an answer will weigh is known only afterwards. Shared
by all upstreams and by the reports; owned by the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

BURST_SECONDS = 1.0
"""So much of the rate may be used at once after a pause."""

SHORTEST_SLEEP = 0.001
"""Seconds. A rounding error is no debt to wait for again and again."""


class Throttle:
    """`wait` before sending, `charge` what came back. kbps: kilobits (1000 bits) a second."""

    def __init__(
        self,
        kbps: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.rate = kbps * 1000 / 8
        self.clock = clock
        self._sleep = sleep
        self._balance = self.rate * BURST_SECONDS
        self._at = clock()
        # The lock serves in order of arrival, and whoever is cancelled leaves the line.
        self._turn = asyncio.Lock()

    async def wait(self, size: int) -> None:
        """Wait until all debts are paid, then take `size` bytes. Cancelled, it takes nothing."""
        async with self._turn:
            while (debt := -self._settled()) > 0:
                await self._sleep(max(debt / self.rate, SHORTEST_SLEEP))
            self.charge(size)

    def charge(self, size: int) -> None:
        """Bytes that went over the line; whoever comes next waits for them."""
        self._balance = self._settled() - size

    def _settled(self) -> float:
        now = self.clock()
        earned = (now - self._at) * self.rate
        self._balance = min(self._balance + earned, self.rate * BURST_SECONDS)
        self._at = now
        return self._balance
