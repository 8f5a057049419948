"""From what the machine feels to a level: how many degrees are left before it slows itself down,
and how many watts of the budget. Pure, on the caller's clock.

Only zones count of which the kernel tells what it takes down at their point: a laptop's processor
that works at its limit all day, or a sensor with a number of its own, is no reason to refuse work.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from edge.config.machine import Heat, Power
from edge.heat.ladder import Ladder, Rung
from edge.heat.levels import CRITICAL_ONLY, meaning
from edge.host.sensors import HostFacts
from edge.host.thermal import Zone

AHEAD = 20.0
"""Seconds that the forecast looks ahead: what was begun before has ended by then, mostly. Further,
every load that begins would look like a fire, as a chip warms up far faster than its heat sink."""

STEP = 5.0
"""Seconds between two rungs up."""

REACHED = 60.0
"""Seconds at the point where the machine slows down until all but critical requests wait."""

SLACK, BETTER = 3.0, 4.0
"""Degrees; see `Ladder`."""

AVERAGE = 30.0
"""Seconds that watts are averaged over, and between two rungs up because of them."""

POWER_SLACK, POWER_BETTER = 0.1, 0.15
"""Parts of the budget."""

Reason = Literal["heat", "power"]


class Near(msgspec.Struct, frozen=True):
    """The zone with the least room. room: degrees below the point where it is slowed down. ahead:
    the same in `AHEAD` seconds if it goes on like this. rises: degrees a second, None while
    unknown."""

    zone: str
    celsius: float
    throttles_at: float
    room: float
    ahead: float
    rises: float | None


class Standing(msgspec.Struct, frozen=True):
    """level: see `levels.py`. reason: what it is for, None where nothing is held back.
    watts: on average; None while unknown, or without a budget."""

    level: int = 0
    reason: Reason | None = None
    near: Near | None = None
    watts: float | None = None
    budget_watts: float | None = None

    @property
    def why(self) -> str:
        """For people: what makes it hold back."""
        if self.reason == "power" and self.budget_watts is not None:
            drawn = "unknown" if self.watts is None else f"{self.watts:.1f} W"
            return f"the machine draws {drawn} of a budget of {self.budget_watts:g} W"
        if self.near is None:
            return "the machine was hot, and its temperature is unknown now"
        near = self.near
        slows = f"slows down at {near.throttles_at:g} °C"
        return f"the machine is at {near.celsius:.1f} °C and {slows}"

    @property
    def text(self) -> str:
        if self.reason is None:
            return meaning(0)
        return f"{self.why}: {meaning(self.level)}"


class Policy:
    """Owned by whoever reads the sensors for it."""

    def __init__(self, heat: Heat, power: Power) -> None:
        self.heat = heat
        self.power = power
        margin = heat.margin
        self._of_heat = Ladder(
            (
                Rung(margin, STEP, foreseen=True),
                Rung(margin * 3 / 4, STEP, foreseen=True),
                Rung(margin / 2, STEP),
                Rung(margin / 4, STEP),
                Rung(0.0, REACHED),
            ),
            SLACK,
            BETTER,
        )
        # At its budget a machine has not slowed down, and no request that may not wait is refused.
        rungs = tuple(Rung(0.0, AVERAGE) for _ in range(CRITICAL_ONLY - 1))
        self._of_power = Ladder(rungs, POWER_SLACK, POWER_BETTER)
        self._drawn: deque[tuple[float, float]] = deque()

    def note(self, now: float, facts: HostFacts) -> Standing:
        """now: seconds that only grow."""
        near = nearest(facts.temperatures or {}, facts.rises) if self.heat.enabled else None
        room, ahead = (None, None) if near is None else (near.room, near.ahead)
        hot = self._of_heat.note(now, room, ahead)
        budget, watts = self.power.budget_watts, None
        if budget is not None:
            watts = self._average(now, facts.power.total if facts.power else None)
        room = None if watts is None or budget is None else 1 - watts / budget
        drawn = self._of_power.note(now, room)
        reason: Reason | None = "heat" if hot >= drawn else "power"
        level = max(hot, drawn)
        return Standing(level, reason if level else None, near, watts, budget)

    def wait(self, level: int) -> float:
        """Seconds until that level at the earliest."""
        return max(self._of_heat.wait(level), self._of_power.wait(level))

    def _average(self, now: float, watts: float | None) -> float | None:
        """None until there are readings of as long as it is taken over."""
        while self._drawn and now - self._drawn[0][0] > AVERAGE:
            self._drawn.popleft()
        if watts is not None:
            self._drawn.append((now, watts))
        if not self._drawn or now - self._drawn[0][0] < AVERAGE / 2:
            return None
        return sum(one for _, one in self._drawn) / len(self._drawn)


def nearest(zones: dict[str, Zone], rises: dict[str, float]) -> Near | None:
    """Of the zones that are known, and that the kernel slows the machine down for; None without."""
    found = [
        Near(name, zone.celsius, limit, room, room - AHEAD * rises.get(name, 0.0), rises.get(name))
        for name, zone in zones.items()
        if zone.enforced and zone.celsius is not None and (limit := zone.throttles_at) is not None
        for room in [limit - zone.celsius]
    ]
    return min(found, key=lambda one: min(one.room, one.ahead), default=None)
