"""What the machine feels now: heat, power, how it is set. Read in threads, asked from anywhere.

Owns the threads; the daemon starts and stops it like its other components.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edge.energy.accountant import Stretch
from edge.host import clocks, identity, idle_gpu, smi, thermal, throttling
from edge.host.clocks import Clocks
from edge.host.forecast import Expected, Outlook
from edge.host.identity import Identity
from edge.host.power import Power, PowerMeter
from edge.host.smi import Card
from edge.host.thermal import Zone
from edge.host.watched import Watched

IDLE_TICK, BUSY_TICK = 1.0, 0.25
"""Seconds between two readings of the power: as long as nothing is computed, and while something
is. At both ends it is read besides, so that what was drawn before is not mixed with it. Reading the
rails of an AGX Orin takes some milliseconds, most of them waiting for the bus."""


class HostFacts(msgspec.Struct, frozen=True):
    """All of it at one moment; None is unknown. throttling: what takes clocks down now. expected:
    which zone will be slowed down soon, None where that is not foreseen. rises: degrees a second
    by zone, of those that have a point where they are slowed down."""

    identity: Identity | None = None
    clocks: Clocks | None = None
    temperatures: dict[str, Zone] | None = None
    throttling: list[str] | None = None
    expected: Expected | None = None
    rises: dict[str, float] = {}
    power: Power | None = None
    cards: list[Card] | None = None


class Sensors:
    """The readings. Before `run` and after `stop` all are unknown.

    root: where the machine's trees hang. speed: of its time, see `host_speed`. used: is told, on
    the event loop, what was used from one reading of the power to the next.
    """

    def __init__(self, root: Path = Path("/"), speed: float = 1.0) -> None:
        self._root = root
        self.speed = speed
        self._outlook = Outlook()
        tick = 2.0 / speed
        self._heat = Watched("temperatures", self._read_heat, tick=tick)
        self._throttling = Watched("cooling", lambda: throttling.active(root), tick=tick)
        self._cards = Watched("graphics cards", lambda: smi.cards(root), tick=10.0, fresh=60.0)
        self.used: Callable[[Stretch], None] = lambda stretch: None
        self._meter = PowerMeter(root, lambda: self._cards.value)
        self._power = Watched("power", self._read_power, tick=IDLE_TICK)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clocks = Watched("clocks", lambda: clocks.read(root), tick=2.0)
        # The list of packages is megabytes long.
        self._identity = Watched("board", lambda: identity.read(root), tick=60.0, fresh=300.0)
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        idle_gpu.watch(self._root)
        for watched in self._watched():
            watched.start()
        await self._stopped.wait()

    async def stop(self) -> None:
        for watched in self._watched():
            watched.stop()
        self._stopped.set()

    def facts(self) -> HostFacts:
        cards, heat = self._cards.value, self._heat.value
        zones, expected, rises = heat if heat is not None else (None, None, {})
        return HostFacts(
            identity=self._identity.value,
            clocks=self._clocks.value,
            temperatures=_with_cards(zones, cards),
            throttling=self._throttling.value,
            expected=expected,
            rises=rises,
            power=self._power.value,
            cards=cards,
        )

    def attend(self, busy: bool) -> None:
        """Something begins to be computed, or nothing is any more: look at the power now."""
        self._power.pace(BUSY_TICK if busy else IDLE_TICK)

    def _read_power(self) -> Power | None:
        """In the thread that reads the rails, whose the meter is."""
        power = self._meter.sample()
        if self._meter.stretch is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self.used, self._meter.stretch)
        return power

    def _read_heat(self) -> tuple[dict[str, Zone], Expected | None, dict[str, float]] | None:
        """In the thread that reads the zones, whose the outlook is."""
        zones = thermal.zones(self._root)
        if zones is None:
            return None
        expected = self._outlook.note(time.monotonic() * self.speed, zones)
        return zones, expected, self._outlook.rises

    def _watched(self) -> list[Watched[Any]]:
        return [
            *(self._heat, self._throttling, self._cards),
            *(self._power, self._clocks, self._identity),
        ]


def _with_cards(zones: dict[str, Zone] | None, cards: list[Card] | None) -> dict[str, Zone] | None:
    """Zones of the machine, and those of its cards by their names."""
    own = {name: Zone(card.celsius) for name, card in smi.by_name(cards).items()}
    return {**(zones or {}), **own} or None
