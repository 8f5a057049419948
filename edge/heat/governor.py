"""Asks the policy every second, tells the workers their pace, and refuses what has to wait.

Owned by the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from edge.config.machine import Heat, Power
from edge.errors import Overloaded
from edge.heat import levels
from edge.heat.levels import NAMES, PACES
from edge.heat.policy import Near, Policy, Reason, Standing
from edge.host.sensors import HostFacts
from edge.loops import Loop
from edge.metrics import Metrics
from edge.types import Pace, Priority

logger = logging.getLogger(__name__)

TICK = 1.0
LONGEST_RETRY = 300.0
KEPT_RETRY = 1.0
"""Seconds after which a kept request is looked at again: the queue holds it back by itself."""


class Feels(Protocol):
    """The sensors. speed: of the machine's time, which a recorded one may have faster."""

    speed: float

    def facts(self) -> HostFacts: ...


class HeatFacts(msgspec.Struct):
    """What operators see. level: its name. text: what it means, and why. changes: of the level
    since the start. near: the zone with the least room, None where no temperature counts."""

    level: str
    number: int
    reason: Reason | None
    text: str
    since_seconds: float | None
    changes: int
    near: Near | None
    watts: float | None
    budget_watts: float | None


class Governor:
    """tell: has all workers keep a pace from now on; it is told again and again."""

    def __init__(
        self,
        heat: Heat,
        power: Power,
        sensors: Feels,
        metrics: Metrics,
        tell: Callable[[Pace], None],
    ) -> None:
        self._sensors = sensors
        self._metrics = metrics
        self._tell = tell
        self._policy = Policy(heat, power)
        self._standing = Standing()
        self._changed_at: float | None = None
        self._changes = 0
        self._loop = Loop("heat", self._turn, tick=TICK / sensors.speed)
        metrics.heat_level.set_function(lambda: float(self.level))

    def reconfigure(self, heat: Heat, power: Power) -> None:
        """What was learned under other settings does not hold."""
        if (heat, power) != (self._policy.heat, self._policy.power):
            self._policy = Policy(heat, power)

    @property
    def level(self) -> int:
        return self._standing.level

    @property
    def pace(self) -> Pace:
        return PACES[self.level]

    @property
    def facts(self) -> HeatFacts:
        standing, since = self._standing, self._changed_at
        return HeatFacts(
            level=NAMES[standing.level],
            number=standing.level,
            reason=standing.reason,
            text=standing.text,
            since_seconds=None if since is None else round(time.monotonic() - since, 1),
            changes=self._changes,
            near=standing.near,
            watts=standing.watts,
            budget_watts=standing.budget_watts,
        )

    def holds(self, priority: Priority, *, may_wait: bool) -> str | None:
        """Why such a request does not begin here now; None if it does. may_wait: it is kept, or
        its caller lets it be."""
        start = levels.waits_from(priority, may_wait=may_wait)
        return None if start is None or self.level < start else self._standing.text

    def check(self, priority: Priority, *, kept: bool, may_wait: bool) -> None:
        """Raises `Overloaded` while it is held back."""
        may_wait = may_wait or kept
        why = self.holds(priority, may_wait=may_wait)
        if why is None:
            return
        reason, start = self._standing.reason, levels.waits_from(priority, may_wait=may_wait)
        assert reason is not None
        assert start is not None
        self._metrics.heat_refused.labels(priority, reason).inc()
        wait = self._policy.wait(start - 1) / self._sensors.speed
        raise Overloaded(
            why,
            hint="come back later, or let it be queued with edge.allow_queue",
            retry_after=KEPT_RETRY if kept else min(LONGEST_RETRY, max(1.0, wait)),
        )

    def goes_away(self, priority: Priority) -> bool:
        """Whether the cloud targets of a route are asked before those here."""
        return levels.goes_away(self.level, priority)

    async def run(self) -> None:
        """Until `stop`."""
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()

    async def _turn(self) -> None:
        now = time.monotonic()
        before = self._standing
        self._standing = self._policy.note(now * self._sensors.speed, self._sensors.facts())
        if before.level != self.level:
            self._changed_at = now
            self._changes += 1
            self._metrics.heat_changes.inc()
            logger.warning("%s: %s", NAMES[self.level], self._standing.text)
        # Again and again, for workers that have come meanwhile.
        self._tell(self.pace)
