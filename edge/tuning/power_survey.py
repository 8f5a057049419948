"""One run of `edge tune --power`: the same load in each power mode, its speed and its energy.

Each mode gets a worker of its own, with as many threads as there are cores in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from edge.config.models import Engine
from edge.errors import EdgeError
from edge.host import cpu, memory
from edge.host.nvpmodel import Mode
from edge.host.power import PowerMeter
from edge.runtime.settings import engine_settings
from edge.tuning.candidate import Candidate
from edge.tuning.power_mode import ModeRefused, NeedsReboot, PowerModes
from edge.tuning.workers import Workers

ROUNDS = 3
"""In each mode; the middle one counts."""

SAMPLE_SECONDS = 0.1

Verdict = Literal["measured", "needs a reboot", "refused", "fails", "not reached"]


class ModeFigures(msgspec.Struct):
    """single: tokens a second of one stream. crowd: of many at once, together. tokens_per_joule:
    generated, over all of a round, prompts included. watts: of the whole module, on average."""

    mode: Mode
    verdict: Verdict = "not reached"
    single: float | None = None
    crowd: float | None = None
    watts: float | None = None
    tokens_per_joule: float | None = None
    error: str | None = None


class Round(msgspec.Struct, frozen=True):
    single: float
    crowd: float
    tokens: int
    joules: float
    seconds: float


def recommended(modes: list[ModeFigures], speed: float) -> ModeFigures | None:
    """The one with the most tokens for a joule among those that are fast enough; None where none
    is."""
    fast = [one for one in modes if one.single is not None and one.single >= speed]
    return max(fast, key=lambda one: one.tokens_per_joule or 0.0, default=None)


class PowerSurvey:
    """`run` it; whatever ends it, `figures` are what is known by then."""

    def __init__(self, modes: PowerModes, root: Path, path: Path, engine: Engine) -> None:
        """path: of the model."""
        self._modes = modes
        self._meter = PowerMeter(root)
        self._joules: float | None = 0.0
        self._path = path
        self._engine = engine
        current = modes.current
        others = [mode for mode in modes.all if mode.id != current.id]
        self.before = current
        self.figures = [ModeFigures(mode) for mode in (current, *others)]

    async def run(self, seconds: float, follow: Callable[[str], None]) -> None:
        """Raises `ModeRefused` where the power cannot be read, and not even the first mode can be
        measured. The mode stays where the last one was."""
        power = self._meter.sample()
        if power is None or power.total is None:
            raise ModeRefused("what the board draws cannot be read", hint="edge doctor")
        each = seconds / (len(self.figures) * (ROUNDS + 1))
        async with Workers(self._candidate()) as workers:
            for place, figures in enumerate(self.figures):
                await workers.keep()  # the next mode's cores are another worker's
                try:
                    self._modes.try_out(figures.mode, self.before)
                    follow(f"measuring in the mode {figures.mode.name}")
                    candidate = self._candidate()
                    if place == 0:
                        await workers.calibrate(candidate, each)
                    await self._measure(workers, candidate, figures)
                except NeedsReboot as error:
                    figures.verdict, figures.error = "needs a reboot", error.message
                except ModeRefused as error:
                    figures.verdict, figures.error = "refused", error.message
                except EdgeError as error:
                    figures.verdict, figures.error = "fails", error.message
                follow(told(figures))

    def _candidate(self) -> Candidate:
        available = memory.available_bytes() or 0
        return Candidate(self._path, engine_settings(self._engine, cpu.usable_cores(), available))

    async def _measure(self, workers: Workers, candidate: Candidate, figures: ModeFigures) -> None:
        await workers.facts(candidate)  # what loading takes does not count
        rounds = [await self._round(workers, candidate) for _ in range(ROUNDS)]
        figures.single = round(median(one.single for one in rounds), 2)
        figures.crowd = round(median(one.crowd for one in rounds), 2)
        figures.watts = round(median(one.joules / one.seconds for one in rounds), 2)
        figures.tokens_per_joule = round(median(one.tokens / one.joules for one in rounds), 4)
        figures.verdict = "measured"

    async def _round(self, workers: Workers, candidate: Candidate) -> Round:
        """Raises `ModeRefused` where the power could not be read all the time."""
        await asyncio.to_thread(self._meter.sample)
        self._joules, began, over = 0.0, time.monotonic(), asyncio.Event()
        sampling = asyncio.create_task(self._sample(over), name="power")
        try:
            found = await workers.measure(candidate)
        finally:
            over.set()
            await sampling
        if not self._joules:
            raise ModeRefused("what the board draws could not be read", hint="edge doctor")
        tokens = 1 + workers.work.single + workers.crowd * workers.work.crowd
        return Round(found.single, found.crowd, tokens, self._joules, time.monotonic() - began)

    async def _sample(self, over: asyncio.Event) -> None:
        """One at a time, the last one when the round is over."""
        while not over.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), SAMPLE_SECONDS)
            await asyncio.to_thread(self._meter.sample)
            stretch = self._meter.stretch
            joules = None if stretch is None else stretch.energy.joules
            known = joules is not None and self._joules is not None
            self._joules = (self._joules or 0.0) + (joules or 0.0) if known else None


def told(figures: ModeFigures) -> str:
    """A mode in one line."""
    if figures.verdict != "measured":
        return f"{figures.mode.name}: {figures.error or figures.verdict}"
    return (
        f"{figures.mode.name}: {figures.single:.1f} tokens/s, {figures.watts:.1f} W,"
        f" {figures.tokens_per_joule:.3g} tokens for a joule"
    )
