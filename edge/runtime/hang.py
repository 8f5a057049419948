"""Whether a worker that says nothing still gets anywhere.

A long step on a slow processor is no hang, however long it is silent: it burns processor time. A
process that is stopped, or waits for what never comes, burns none. So it is looked at every second,
through /proc, and ended by its runner's word when nothing has happened for long enough. Time counts
as far as this process was awake for it: after the whole machine, or the daemon, stood still
everybody has as much patience as before.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from edge.loops import Loop

logger = logging.getLogger(__name__)

TICK = 1.0

STILL_SECONDS = 20.0
"""A worker that says nothing and does nothing for this long is stopped, or stuck."""

LOAD_STILL_SECONDS = 120.0
LOAD_SECONDS = 900.0
"""The same for loading, which may read many gigabytes from a slow disk."""

LEAST_SHARE = 0.02
"""Part of one core below which a worker counts as doing nothing: it looks at its messages."""

STARVED_SHARE = 0.5
"""Part of the looks at which it would have computed, had programs that go before it left it a
processor. One that only looks at its messages is seldom caught at it."""

STUCK_SECONDS = 30.0
"""A process that was killed and is there for so much longer waits in the kernel for a device."""


class Activity(NamedTuple):
    """What a process has done so far. cpu: seconds, of all its threads. faults: pages that were
    read from a disk for it. waits: it is in the kernel and waits for a device. ready: one of
    its threads runs at this moment, or would if others left it a processor."""

    cpu: float
    faults: int
    waits: bool
    ready: bool = False


class Bounds(NamedTuple):
    """Seconds of silence, and the least part of a core that counts as work."""

    still: float
    longest: float
    share: float


def stepping(longest: float) -> Bounds:
    return Bounds(STILL_SECONDS, longest, LEAST_SHARE)


def loading() -> Bounds:
    """Whatever it does counts, since a disk may be slower than all that is left to do."""
    return Bounds(LOAD_STILL_SECONDS, LOAD_SECONDS, 0.0)


def activity(pid: int) -> Activity | None:
    """As proc_pid_stat(5) tells it; None for a process that is gone."""
    try:
        fields = _fields(Path(f"/proc/{pid}"))
    except OSError:
        return None
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Activity(cpu, int(fields[9]), fields[0] == "D", _ready(pid))


def _ready(pid: int) -> bool:
    """By the states of its threads. Their time on the run queue (schedstat) is told only when it
    ends."""
    with suppress(OSError):  # it has ended, or one of them
        return any(_fields(thread)[0] == "R" for thread in Path(f"/proc/{pid}/task").iterdir())
    return False


def _fields(process: Path) -> list[str]:
    """Of a process or a thread: state (field 3) first, so majflt (12) is the tenth, and utime (14)
    and stime (15) the twelfth and thirteenth. The name before them may contain anything."""
    return (process / "stat").read_text().rpartition(")")[2].split()


class Silence:
    """How long a worker has said nothing, and what it did meanwhile. Pure: it reads no clock."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._seconds = 0.0
        self._seen: deque[tuple[float, Activity]] = deque()

    def broken(self) -> None:
        """It has said something, or got on with its work."""
        self._seconds = 0.0
        self._seen.clear()

    def goes_on(self, seconds: float, now: Activity) -> str | None:
        """So many more seconds have passed. Returns why it counts as hung, None if it does not."""
        self._seconds += seconds
        self._seen.append((self._seconds, now))
        if self._seconds >= self.bounds.longest:
            return f"it has computed without a result for {self._seconds:.0f} s"
        while len(self._seen) > 1 and self._seen[1][0] <= self._seconds - self.bounds.still:
            self._seen.popleft()
        since, then = self._seen[0]
        span = self._seconds - since
        if span < self.bounds.still or now.waits or now.faults > then.faults:
            return None
        if now.cpu - then.cpu > self.bounds.share * span:
            return None
        if sum(one.ready for _, one in self._seen) > STARVED_SHARE * len(self._seen):
            return None
        return f"it has done nothing for {span:.0f} s"


class Killable(Protocol):
    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...


class HangWatch:
    """Over one life of a worker. `run` it in a task; tell it with `heard` what comes."""

    def __init__(self, name: str, worker: Killable) -> None:
        self.reason: str | None = None
        self._name = name
        self._worker = worker
        self._silence = Silence(loading())
        self._killed_at: float | None = None
        self._last = 0.0
        self._loop = Loop(f"watch of {name}", self._look, tick=TICK)

    @property
    def stuck(self) -> bool:
        """It was killed and is still there."""
        killed_at = self._killed_at
        return killed_at is not None and time.monotonic() - killed_at > STUCK_SECONDS

    def heard(self) -> None:
        self._silence.broken()

    def loaded(self, bounds: Bounds) -> None:
        """From now on these hold."""
        self._silence = Silence(bounds)

    async def run(self) -> None:
        """Returns when it has killed the worker, or the worker is gone."""
        self._last = time.monotonic()
        await self._loop.run()

    async def _look(self) -> None:
        now = time.monotonic()
        # No more than the tick and some delay: else this process stood still as well.
        awake, self._last = min(now - self._last, 2 * TICK), now
        done = activity(self._worker.pid)
        if done is None:
            self._loop.stop()
            return
        self.reason = self._silence.goes_on(awake, done)
        if self.reason is not None:
            logger.error("%s: the worker hangs: %s", self._name, self.reason)
            self._worker.kill()
            self._killed_at = now
            self._loop.stop()
