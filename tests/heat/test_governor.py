"""Who is refused at which level, what the workers are told, and what operators see."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from edge.config.machine import Heat, Power
from edge.errors import Overloaded
from edge.heat.governor import Governor
from edge.heat.levels import NAMES, PACES
from edge.host.sensors import HostFacts
from edge.host.thermal import Zone
from edge.metrics import Metrics
from edge.types import Pace, Priority

SPEED = 1000.0
"""A minute of the machine's time is over in no time here."""

CELSIUS = {"less_batch": 92.0, "no_batch": 94.0, "fewer_slots": 96.0, "elsewhere": 98.0}


@dataclass
class Hand:
    """Stands where the sensors stand."""

    celsius: float | None = 50.0
    speed: float = SPEED
    told: list[Pace] = field(default_factory=list)

    def facts(self) -> HostFacts:
        return HostFacts(temperatures={"cpu": Zone(self.celsius, 99.0, 104.5, enforced=True)})


@dataclass
class Held:
    hand: Hand
    governor: Governor
    metrics: Metrics

    async def reach(self, level: str) -> None:
        """Warm or cool it until it is there."""
        self.hand.celsius = {**CELSIUS, "critical_only": 99.5, "normal": 40.0}[level]
        for _ in range(100_000):
            await self.governor._turn()
            if NAMES[self.governor.level] == level:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{level} is not reached, but {self.governor.facts}")

    def refused(self, priority: Priority, *, kept: bool = False, may_wait: bool = False) -> bool:
        try:
            self.governor.check(priority, kept=kept, may_wait=may_wait)
        except Overloaded:
            return True
        return False


@pytest.fixture
def held() -> Held:
    hand, metrics = Hand(), Metrics()
    governor = Governor(Heat(), Power(), hand, metrics, hand.told.append)
    return Held(hand, governor, metrics)


async def test_who_waits_from_which_level_on(held: Held) -> None:
    """By rows: batch, normal that may wait, normal that may not, critical."""
    seen = {}
    for level in ("normal", *NAMES[1:]):
        await held.reach(level)
        seen[level] = [
            held.refused("batch"),
            held.refused("normal", may_wait=True),
            held.refused("normal"),
            held.refused("critical"),
        ]
        assert held.refused("normal", kept=True) == held.refused("normal", may_wait=True)
    assert seen == {
        "normal": [False, False, False, False],
        "less_batch": [False, False, False, False],
        "no_batch": [True, False, False, False],
        "fewer_slots": [True, False, False, False],
        "elsewhere": [True, True, False, False],
        "critical_only": [True, True, True, False],
    }


async def test_who_is_sent_away_from_which_level_on(held: Held) -> None:
    classes: tuple[Priority, ...] = ("batch", "normal", "critical")
    for level, away in [("less_batch", 0), ("no_batch", 1), ("elsewhere", 2), ("critical_only", 3)]:
        await held.reach(level)
        assert [held.governor.goes_away(one) for one in classes] == [
            number < away for number in range(3)
        ]


async def test_refusal_says_why_and_when_to_come_back(held: Held) -> None:
    """The minutes that the way down takes at least, in the caller's time."""
    await held.reach("elsewhere")
    with pytest.raises(Overloaded) as caught:
        held.governor.check("normal", kept=False, may_wait=True)
    assert caught.value.message.startswith("the machine is at 98.0 °C and slows down at 99 °C: ")
    assert caught.value.retry_after == 1.0
    held.hand.speed = 1.0
    with pytest.raises(Overloaded) as caught:
        held.governor.check("batch", kept=False, may_wait=False)
    assert caught.value.retry_after == 3 * 60
    with pytest.raises(Overloaded) as caught:
        held.governor.check("batch", kept=True, may_wait=False)
    assert caught.value.retry_after == 1
    name = "edge_heat_refused_total"
    count = held.metrics.registry.get_sample_value(name, {"priority": "batch", "reason": "heat"})
    assert count == 2


async def test_workers_are_told_their_pace_again_and_again(held: Held) -> None:
    """One that comes later hears of it, too."""
    await held.reach("fewer_slots")
    assert held.hand.told[-1] == PACES[3]
    first_told = [held.hand.told.index(pace) for pace in PACES[:4]]
    assert first_told == sorted(first_told)
    assert len(held.hand.told) > 4
    await held.reach("normal")
    assert held.hand.told[-1] == Pace()


async def test_other_settings_hold_at_once(held: Held) -> None:
    await held.reach("no_batch")
    held.governor.reconfigure(Heat(), Power())
    assert held.governor.level == 2
    held.governor.reconfigure(Heat(enabled=False), Power())
    await held.reach("normal")
    facts = held.governor.facts
    assert (facts.level, facts.near, facts.changes) == ("normal", None, 3)


async def test_unknown_is_told_as_unknown(held: Held) -> None:
    held.hand.celsius = None
    await held.governor._turn()
    assert (held.governor.facts.near, held.governor.facts.text) == (None, "nothing is held back")
