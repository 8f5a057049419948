"""The one shape of every background loop in the daemon.

A loop wakes on an event, on a tick, or to stop. A failing turn is retried with capped backoff
and jitter, logged at most every 30 s, and followed by one "recovered" line when it works again.
Errors that a retry cannot mend (`fatal`) leave the loop, and with it the daemon's task group: the
daemon ends and systemd starts it again. There is no silent half-life.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


def delay_after(failures: int, first: float, cap: float) -> float:
    """Seconds to wait after so many failures before: they double up to `cap`, with ±20 % jitter."""
    return min(cap, first * 2.0 ** min(failures, 30)) * random.uniform(0.8, 1.2)


class Backoff:
    """Delays that double from `first` to `cap` seconds, with jitter."""

    def __init__(self, first: float = 0.5, cap: float = 30.0) -> None:
        self.first = first
        self.cap = cap
        self.failures = 0

    def next(self) -> float:
        delay = delay_after(self.failures, self.first, self.cap)
        self.failures += 1
        return delay

    def reset(self) -> None:
        self.failures = 0


class QuietLog:
    """Logs a repeating error at most every `interval` seconds, and once that it is over."""

    def __init__(self, what: str, interval: float = 30.0) -> None:
        self.what = what
        self.interval = interval
        self.last = float("-inf")
        self.suppressed = 0
        self.failing = False

    def error(self, error: BaseException) -> None:
        self.failing = True
        now = time.monotonic()
        if now - self.last < self.interval:
            self.suppressed += 1
            return
        more = f" ({self.suppressed} more like it)" if self.suppressed else ""
        logger.error("%s: %s%s", self.what, error, more, exc_info=error)
        self.last, self.suppressed = now, 0

    def recovered(self) -> None:
        if self.failing:
            logger.info("%s: recovered", self.what)
        self.failing, self.last, self.suppressed = False, float("-inf"), 0


class Loop:
    """Runs `turn` every `tick` seconds, or sooner when `wake()` is called, until `stop()`.

    A turn may set `tick`; the new one holds for the pause after it.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], Awaitable[None]],
        *,
        tick: float,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self.turn = turn
        self.tick = tick
        self.fatal = fatal
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        backoff, log = Backoff(), QuietLog(self.name)
        while not self._stopping:
            try:
                await self.turn()
            except self.fatal:
                raise
            except Exception as error:
                log.error(error)
                delay = backoff.next()
            else:
                log.recovered()
                backoff.reset()
                delay = self.tick
            # Not wait_for: until Python 3.12 it loses a cancellation that comes with the event,
            # and the loop would go on for good.
            timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
            self._wake.clear()
