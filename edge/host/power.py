"""What the machine draws, rail by rail, and the energy since the meter was made.

A Jetson tells watts, a PC's processor counts joules, which are divided by the time, and a graphics
card tells watts of its own. Watts hold for the time since the sample before: that is what a counter
says, what the monitors' own averaging comes to, and exact where samples are taken as the load
changes (`sensors.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge.energy.accountant import UNKNOWN, Stretch
from edge.host import rails, rapl, smi
from edge.types import Energy

_LONGEST = 60.0
"""Seconds between two samples that are taken for one stretch of time; a longer gap (the machine
slept, a sensor hung) is left out of the energy."""


class Power(msgspec.Struct, frozen=True):
    """Watts by rail and of all together. joules, rails_joules: since the meter was made, as far as
    they could be read."""

    rails: dict[str, float | None]
    total: float | None
    joules: float | None
    rails_joules: dict[str, float] = {}


class PowerMeter:
    """Owned by whoever takes samples, one at a time. cards: the last that is known of them, for
    to ask them takes too long for a sample. stretch: what the last sample told of the time before
    it, None before the second one."""

    def __init__(
        self,
        root: Path = Path("/"),
        cards: Callable[[], list[smi.Card] | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stretch: Stretch | None = None
        self._root = root
        self._cards = cards
        self._clock = clock
        self._joules: float | None = None
        self._rails: dict[str, float] = {}
        self._last: float | None = None
        self._counters: tuple[float, dict[str, rapl.Counter]] | None = None

    def sample(self) -> Power | None:
        """None where the machine has nothing that measures."""
        now = self._clock()
        found = rails.rails(self._root)
        if found is not None:
            total = rails.total(found)
        else:
            cards = smi.by_name(self._cards())
            found = self._processors(now) | {name: card.watts for name, card in cards.items()}
            known = [watts for watts in found.values() if watts is not None]
            total = sum(known) if known and len(known) == len(found) else None
        drawn = Energy(total, {name: one for name, one in found.items() if one is not None})
        self._count(now, drawn)
        return Power(found, total, self._joules, dict(self._rails)) if found else None

    def _processors(self, now: float) -> dict[str, float | None]:
        """Watts since the last sample; unknown at the first."""
        counters = rapl.counters(self._root) or {}
        before, self._counters = (
            self._counters,
            (now, {name: one for name, one in counters.items() if one is not None}),
        )
        watts: dict[str, float | None] = dict.fromkeys(counters)
        if before is not None and 0 < now - before[0] <= _LONGEST:
            for name, one in self._counters[1].items():
                if name in before[1]:
                    watts[name] = rapl.spent(before[1][name], one) / (now - before[0])
        return watts

    def _count(self, now: float, drawn: Energy) -> None:
        """drawn: watts, since the last sample."""
        last, self._last = self._last, now
        if last is None:
            self._joules = None if drawn.joules is None else 0.0
            return
        spent = drawn.times(now - last) if now - last <= _LONGEST else UNKNOWN
        self.stretch = Stretch(last, now, spent)
        if spent.joules is not None:
            self._joules = (self._joules or 0.0) + spent.joules
        for name, joules in spent.rails.items():
            self._rails[name] = self._rails.get(name, 0.0) + joules
