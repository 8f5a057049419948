"""The daemon's own memory has a ceiling, and the least urgent work is refused before it is met.

What is measured is what the process holds, and nothing is estimated. Bodies of requests are the one
thing that grows fast, so whoever reads one tells it here: it is measured again with every few
megabytes, and the largest that are still coming are given up. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from edge.config.doors import Limits
from edge.errors import Overloaded
from edge.host import memory
from edge.loops import Loop
from edge.metrics import Metrics
from edge.types import Priority

logger = logging.getLogger(__name__)

MB = 1 << 20

CLASSES: tuple[Priority, ...] = ("batch", "normal", "critical")
"""In the order in which they are refused."""

REFUSED_FROM = (0.8, 0.9, 1.0)
"""Part of the ceiling from which on each of them is."""

HYSTERESIS = 0.05
"""Part of the ceiling below that at which it is let in again."""

AUTO_SHARE, AUTO_LEAST, AUTO_MOST = 1 / 8, 256 * MB, 2048 * MB

SMALL_BODY = 1 << 16
"""Bytes that are read in any case, because a body may say how urgent it is."""

STEP = 4 * MB
"""Bytes of bodies after which it is measured again at once."""

TICK = 0.5
RETRY = 5.0
"""Seconds after which a refused request may come again."""


class MemoryFacts(msgspec.Struct):
    """In bytes. pressure: how many of `CLASSES` are refused. body_bytes: of open requests."""

    used_bytes: int
    limit_bytes: int
    pressure: int
    body_bytes: int


class Body:
    """One that is being read, or belongs to a request that is not answered yet."""

    def __init__(self) -> None:
        self.size = 0
        self.coming = True
        self.given_up = asyncio.Event()


class MemoryCeiling:
    """resident: bytes that the process holds, None where unknown; then nothing is ever refused."""

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        resident: Callable[[], int | None] = memory.resident_bytes,
    ) -> None:
        self.limits = limits
        self.pressure = 0
        self._metrics = metrics
        self._resident = resident
        self._machine = _machine_bytes()
        self._used = resident() or 0
        self._bodies: set[Body] = set()
        self._unmeasured = 0
        self._loop = Loop("memory", self._turn, tick=TICK)
        metrics.daemon_memory.set_function(lambda: float(self._used))
        metrics.daemon_memory_limit.set_function(lambda: float(self.limit_bytes))
        metrics.memory_pressure.set_function(lambda: float(self.pressure))
        metrics.body_bytes.set_function(lambda: float(self._body_bytes))

    @property
    def limit_bytes(self) -> int:
        """In a tight group at most half of what it allows, for the models are in it too."""
        if self.limits.max_memory_mb != "auto":
            return int(self.limits.max_memory_mb * MB)
        wanted = min(AUTO_MOST, max(AUTO_LEAST, int(self._machine * AUTO_SHARE)))
        return min(wanted, self._machine // 2)

    @property
    def facts(self) -> MemoryFacts:
        return MemoryFacts(self._used, self.limit_bytes, self.pressure, self._body_bytes)

    def check(self, priority: Priority) -> None:
        """Raises `Overloaded` while requests of this class are refused."""
        if self.pressure <= CLASSES.index(priority):
            return
        self._metrics.shed.labels(priority).inc()
        raise Overloaded(
            f"the appliance is short of memory, and {priority} requests have to wait",
            hint="come back later, or raise limits.max_memory_mb",
            retry_after=RETRY,
        )

    def check_unread(self, priority: Priority | None, size: int | None) -> None:
        """The same before a body is read, whose size may be unknown. priority: None where only the
        body can tell it; a small one is then let through, to be looked at by `check`.

        Raises `Overloaded`.
        """
        if priority is not None:
            self.check(priority)
        elif size is None or size > SMALL_BODY:
            self.check("normal")
        else:
            self.check("critical")

    @contextmanager
    def body(self) -> Iterator[Body]:
        """For as long as a request is open: what `note` counts for it."""
        body = Body()
        self._bodies.add(body)
        try:
            yield body
        finally:
            self._bodies.discard(body)

    def note(self, body: Body, size: int, *, more: bool) -> None:
        """So many bytes have come of it. Raises `Overloaded` where it is given up."""
        body.size += size
        body.coming = more
        self._unmeasured += size
        if self._unmeasured >= STEP:
            self._measure()
        if body.given_up.is_set():
            self.refuse_given_up()

    def refuse_given_up(self) -> None:
        raise Overloaded(
            "the appliance is short of memory: the body was given up", retry_after=RETRY
        )

    async def run(self) -> None:
        """Measure, until `stop`."""
        memory.return_large_blocks()
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()

    async def _turn(self) -> None:
        self._measure()
        if self.pressure:
            # A body whose reading was given up may stand in a circle of references (an exception
            # knows the frames that knew it), and few new objects mean no search for such. Ten
            # milliseconds, for what was there at the start is not looked at.
            gc.collect()
            # What was freed may be held by the C library, and would be counted for ever.
            await asyncio.to_thread(memory.trim)
            self._measure()

    @property
    def _body_bytes(self) -> int:
        return sum(body.size for body in self._bodies)

    def _measure(self) -> None:
        self._unmeasured = 0
        self._used = self._resident() or 0
        before, self.pressure = self.pressure, self._pressure()
        if self.pressure > CLASSES.index("normal"):
            self._give_up_bodies()
        if before != self.pressure:
            refused = ", ".join(CLASSES[: self.pressure])
            logger.warning(
                "the daemon holds %d MB of at most %d: %s",
                self._used // MB,
                self.limit_bytes // MB,
                f"{refused} requests are refused" if refused else "nothing is refused any more",
            )

    def _pressure(self) -> int:
        """A class that is refused is let in again only when there is some more room than that."""
        part = self._used / self.limit_bytes
        return sum(
            part >= (start - HYSTERESIS if number < self.pressure else start)
            for number, start in enumerate(REFUSED_FROM)
        )

    def _give_up_bodies(self) -> None:
        """The largest of those that still come, until normal requests could be let in again. What
        was given up before and is not freed yet counts as freed."""
        gone = sum(body.size for body in self._bodies if body.given_up.is_set())
        excess = self._used - gone - int((REFUSED_FROM[1] - HYSTERESIS) * self.limit_bytes)
        coming = [body for body in self._bodies if body.coming and not body.given_up.is_set()]
        for body in sorted(coming, key=lambda body: body.size, reverse=True):
            if excess <= 0 or body.size <= SMALL_BODY:
                return
            body.given_up.set()
            self._metrics.bodies_given_up.inc()
            excess -= body.size


def _machine_bytes() -> int:
    """What there is at all for this process and those beside it."""
    known = [memory.total_bytes(), memory.cgroup_limit_bytes()]
    return min((size for size in known if size is not None), default=AUTO_MOST)
