"""What the machine draws, rail by rail, and the energy since the meter was made.

A Jetson tells watts, which are summed up over time; a PC's processor counts joules, which are
divided by it; a graphics card tells watts of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge.host import rails, rapl, smi

_LONGEST = 60.0
"""Seconds between two samples that are taken for one stretch of time; a longer gap (the machine
slept, a sensor hung) is left out of the energy."""


class Power(msgspec.Struct, frozen=True):
    """Watts by rail and of all together. joules: since the meter was made, as far as it could be
    read."""

    rails: dict[str, float | None]
    total: float | None
    joules: float | None


class PowerMeter:
    """Owned by whoever takes samples, one at a time. cards: the last that is known of them, for
    to ask them takes too long for a sample."""

    def __init__(
        self,
        root: Path = Path("/"),
        cards: Callable[[], list[smi.Card] | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._cards = cards
        self._clock = clock
        self._joules: float | None = None
        self._last: tuple[float, float | None] | None = None
        self._counters: tuple[float, dict[str, rapl.Counter]] | None = None

    def sample(self) -> Power | None:
        """None where the machine has nothing that measures."""
        now = self._clock()
        found = rails.rails(self._root)
        if found is not None:
            total = rails.total(found)
            self._add_between(now, total)
        else:
            cards = smi.by_name(self._cards())
            found = self._processors(now) | {name: card.watts for name, card in cards.items()}
            known = [watts for watts in found.values() if watts is not None]
            total = sum(known) if known and len(known) == len(found) else None
            self._add_since(now, total)
        self._last = now, total
        return Power(found, total, self._joules) if found else None

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

    def _add_between(self, now: float, watts: float | None) -> None:
        """For moments: by the trapezoidal rule, between two that are known."""
        if watts is None:
            return
        before = self._last[1] if self._last is not None else None
        self._spend(0 if before is None else (before + watts) / 2 * self._passed(now))

    def _add_since(self, now: float, watts: float | None) -> None:
        """For averages over the time since the last sample."""
        if watts is not None:
            self._spend(watts * self._passed(now))

    def _passed(self, now: float) -> float:
        """Seconds since the last sample, none over a gap."""
        passed = now - self._last[0] if self._last is not None else 0.0
        return passed if passed <= _LONGEST else 0.0

    def _spend(self, joules: float) -> None:
        self._joules = (self._joules or 0.0) + joules
