"""The board of `./scripts/bench thermal`: a recorded AGX Orin whose temperature follows the work
that the daemon's worker really does.

One mass that power warms and the air cools: capacity * dT/dt = watts - (T - air) / resistance.
Watts are between those of an idle board and of a busy one, by the part of the time in which a
thread of the worker computed, or would have if another program had not had the core.

At its throttle point the board slows down, as a kernel would take its clocks down: the worker is
stopped for a part of the time, until it is cooler.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from recorded_trees import lay_out, set_temperature

THROTTLES_AT = 99.0
COOL_AGAIN = 97.0
IDLE_WATTS, BUSY_WATTS = 10.0, 40.0
RESISTANCE = 1.2
"""Degrees for each watt."""

SECONDS = 150.0
"""Time constant, in the board's own time."""

TICK = 0.2
SLICE = 0.05
"""Seconds that a slowed down worker runs, and stands."""


@dataclass
class Moment:
    """at: seconds since the start. busy: part of the time since the last one."""

    at: float
    celsius: float
    air: float
    busy: float
    throttled: bool


@dataclass
class Board:
    """air: degrees by the seconds since the start. speed: of its time. pid: of the worker now."""

    root: Path
    air: Callable[[float], float]
    speed: float
    began: float = 0.0
    celsius: float = 45.0
    throttled: bool = False
    trace: list[Moment] = field(default_factory=list)

    def lay_out(self) -> None:
        lay_out("agx-orin-jetpack6", self.root)
        self._write()

    async def run(self, pid: Callable[[], int]) -> None:
        """Until it is cancelled."""
        self.began = before = time.monotonic()
        worked = _worked(pid())
        slowing = asyncio.create_task(self._slow_down(pid))
        try:
            while True:
                await asyncio.sleep(TICK)
                now, then = time.monotonic(), _worked(pid())
                busy = min(1.0, max(0.0, (then - worked) / (now - before)))
                self._step(now - before, busy, now - self.began)
                before, worked = now, then
        finally:
            slowing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await slowing
            os.kill(pid(), signal.SIGCONT)

    def _step(self, seconds: float, busy: float, at: float) -> None:
        air = self.air(at)
        balance = air + RESISTANCE * (IDLE_WATTS + (BUSY_WATTS - IDLE_WATTS) * busy)
        left = math.exp(-seconds * self.speed / SECONDS)
        self.celsius = balance + (self.celsius - balance) * left
        self.throttled = self.celsius >= (COOL_AGAIN if self.throttled else THROTTLES_AT)
        self._write()
        self.trace.append(Moment(at, self.celsius, air, busy, self.throttled))

    def _write(self) -> None:
        for zone, less in ((0, 0.0), (1, 1.5), (8, 0.0)):
            set_temperature(self.root, self.celsius - less, zone)

    async def _slow_down(self, pid: Callable[[], int]) -> None:
        while True:
            if self.throttled:
                os.kill(pid(), signal.SIGSTOP)
                await asyncio.sleep(SLICE)
                os.kill(pid(), signal.SIGCONT)
            await asyncio.sleep(SLICE)


def _worked(pid: int) -> float:
    """Seconds that its threads have computed, or waited for a core. Ended threads are lost, which
    a worker's are not.

    Format: https://docs.kernel.org/scheduler/sched-stats.html
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        ran, waited, _ = (task / "schedstat").read_text().split()
        total += int(ran) + int(waited)
    return total / 1e9
