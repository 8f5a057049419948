"""A board as physics has it: one mass that power warms and the air cools. Pure, on its own clock.

capacity * dT/dt = watts - (T - air) / resistance
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from edge.config.machine import Heat, Power
from edge.heat.policy import Policy, Standing
from edge.host.forecast import Outlook
from edge.host.power import Power as Drawn
from edge.host.sensors import HostFacts
from edge.host.thermal import Zone

THROTTLES_AT = 99.0
RESISTANCE = 1.2
"""Degrees for each watt: a passively cooled module."""

SECONDS = 150.0
"""Its time constant."""

WATTS = (40.0, 31.0, 25.0, 21.0, 16.0, 12.0)
"""Under a load without end, by level."""

TICK = 1.0
NOISE = 0.25
"""Degrees, to each side."""


@dataclass
class Board:
    """air: degrees at a time. watts: by level. trace: level and temperature of each second."""

    air: Callable[[float], float]
    watts: tuple[float, ...] = WATTS
    heat: Heat = field(default_factory=Heat)
    power: Power = field(default_factory=Power)
    celsius: float = 45.0
    now: float = 0.0
    trace: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policy = Policy(self.heat, self.power)
        self._outlook = Outlook()
        self._chance = random.Random(1)
        self.standing = Standing()

    def run(self, seconds: float) -> Board:
        for _ in range(int(seconds / TICK)):
            self._step()
        return self

    def _step(self) -> None:
        drawn = self.watts[self.standing.level]
        balance = self.air(self.now) + drawn * RESISTANCE
        self.celsius = balance + (self.celsius - balance) * math.exp(-TICK / SECONDS)
        self.now += TICK
        felt = round(self.celsius + self._chance.uniform(-NOISE, NOISE), 2)
        zones = {"cpu-thermal": Zone(felt, THROTTLES_AT, 104.5, enforced=True)}
        # The sensors are read every other second.
        if self.now % 2 == 0:
            self._outlook.note(self.now, zones)
        facts = HostFacts(
            temperatures=zones,
            rises=self._outlook.rises,
            power=Drawn({"VDD_IN": drawn}, drawn, None),
        )
        self.standing = self.policy.note(self.now, facts)
        self.trace.append((self.standing.level, self.celsius))

    @property
    def levels(self) -> list[int]:
        """Each level that it came to, in order."""
        seen = [level for level, _ in self.trace]
        return [seen[0], *(b for a, b in pairwise(seen) if a != b)]

    def changes(self, last: float) -> int:
        """Of the level, in so many last seconds."""
        seen = [level for level, _ in self.trace[-int(last / TICK) :]]
        return sum(a != b for a, b in pairwise(seen))

    def hottest(self, last: float) -> float:
        return max(celsius for _, celsius in self.trace[-int(last / TICK) :])
