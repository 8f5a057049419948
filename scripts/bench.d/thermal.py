"""`./scripts/bench thermal`: a hot day, with and without the levels of heat.

A real daemon with a real model serves reports from its queue and live requests of all priorities on
a recorded AGX Orin, whose temperature follows the work of the worker (`thermal_board.py`) while the
air around it gets hot, hotter, and cool again. The board's time goes ten times as fast, the
daemon's rules included; requests take as long as they take.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from appliance import Appliance, default_model, serving
from rich.console import Console
from rich.table import Table
from thermal_board import THROTTLES_AT, Board, Moment
from thermal_load import Class, Ending, Load
from thermal_picture import Column, Points, smoothed, write

from edge.heat.levels import NAMES

SPEED = 10.0
PHASES = ((30.0, 30.0), (70.0, 58.0), (60.0, 70.0), (110.0, 25.0))
"""Seconds, and degrees of the air."""

COLOURS: dict[Class, str] = {"batch": "#8a6d3b", "normal": "#2b6cb0", "critical": "#c53030"}


@dataclass
class Run:
    """levels: time, and the level from then on. reports: of the queue, answered and accepted.
    cool_at: when the last phase began."""

    board: list[Moment]
    levels: list[tuple[float, int]]
    load: Load
    reports: tuple[int, int]
    cool_at: float
    seconds: float

    def endings(self, priority: Class, outcome: str = "answered") -> list[Ending]:
        found = self.load.endings
        return [one for one in found if (one.priority, one.outcome) == (priority, outcome)]

    @property
    def critical_p99(self) -> float:
        took = sorted(one.seconds for one in self.endings("critical"))
        return took[math.ceil(0.99 * len(took)) - 1]

    @property
    def lost(self) -> list[Ending]:
        return [one for one in self.load.endings if one.outcome == "lost"]

    @property
    def throttled(self) -> float:
        """Part of the time that the board was slowed down."""
        return sum(moment.throttled for moment in self.board) / len(self.board)


def air(scale: float, at: float) -> float:
    for seconds, degrees in PHASES:
        at -= seconds * scale
        if at < 0:
            return degrees
    return PHASES[-1][1]


async def measure(
    appliance: Appliance, root: Path, scale: float, deadline: float, enabled: bool
) -> Run:
    board = Board(root, lambda at: air(scale, at), SPEED)
    seconds = scale * sum(phase for phase, _ in PHASES)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{appliance.port}") as http:
        status = (await http.get("/admin/v1/status")).json()
        pid = status["models"][0]["pid"]
        load = Load(appliance.port, deadline)
        await load.calibrate()
        await load.start()
        warming = asyncio.create_task(board.run(lambda: pid))
        levels: list[tuple[float, int]] = []
        cool = asyncio.Event()
        watching = asyncio.create_task(_watch(http, load.began, levels, cool))
        await asyncio.sleep(seconds - (time.monotonic() - load.began))
        await load.stop()
        reports = await load.reports(), len(load.kept)
        # Recovery is part of the run, however long the last reports take.
        await cool.wait()
        await load.close()
        for task in (warming, watching):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    cool_at = seconds - scale * PHASES[-1][0]
    return Run(board.trace, levels, load, reports, cool_at, time.monotonic() - load.began)


async def _watch(
    http: httpx.AsyncClient, began: float, levels: list[tuple[float, int]], cool: asyncio.Event
) -> None:
    """cool: set while nothing is held back."""
    while True:
        heat: dict[str, Any] = (await http.get("/admin/v1/status")).json()["heat"]
        if not levels or levels[-1][1] != heat["number"]:
            levels.append((time.monotonic() - began, heat["number"]))
        if heat["number"]:
            cool.clear()
        else:
            cool.set()
        await asyncio.sleep(0.1)


def run(model: Path, scale: float, deadline: float, enabled: bool) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        Board(root, lambda _: 0.0, SPEED).lay_out()
        settings: dict[str, object] = {
            "engine__slots": 4,
            "engine__context": 512,
            "engine__threads": 1,
            "heat__enabled": str(enabled).lower(),
            "host_root": root,
            "host_speed": SPEED,
        }
        with serving(model, **settings) as appliance:
            return asyncio.run(measure(appliance, root, scale, deadline, enabled))


class Scale(NamedTuple):
    """What both runs are drawn over. seconds: of the longest. fastest: tokens a second."""

    seconds: float
    fastest: float
    deadline: float


def _speeds(run: Run) -> list[Points]:
    return [smoothed(times, run.seconds) for times in run.load.tokens.values()]


def column(number: int, title: str, run: Run, scale: Scale) -> Column:
    drawn, deadline = Column(number, title, scale.seconds), scale.deadline
    ends = [*(at for at, _ in run.levels[1:]), run.seconds]
    drawn.bands = [(at, end, level) for (at, level), end in zip(run.levels, ends, strict=True)]
    drawn.panel("Temperature", 20, 120, "°C")
    drawn.line([(0, THROTTLES_AT), (run.seconds, THROTTLES_AT)], "#c53030", "slows down", "6 4")
    drawn.line([(one.at, one.celsius) for one in run.board], "#1f2933", "board")
    drawn.line([(one.at, one.air) for one in run.board], "#9aa5b1", "air", "2 3")
    drawn.panel("Live answers", 0, scale.fastest, "tokens/s")
    for priority, points in zip(run.load.tokens, _speeds(run), strict=True):
        drawn.line(points, COLOURS[priority], priority)
    drawn.panel("Reports in the queue, refusals", 0, len(run.load.kept), "count")
    drawn.line([(at, waiting) for at, waiting, _ in run.load.queue], COLOURS["batch"], "wait")
    drawn.line([(at, runs) for at, _, runs in run.load.queue], "#2f855a", "run")
    heights: dict[Class, float] = {"batch": 0.85, "normal": 0.95}
    for refused, height in heights.items():
        sent = [one.sent for one in run.endings(refused, "refused")]
        points = [(at, height * len(run.load.kept)) for at in sent]
        drawn.dots(points, COLOURS[refused], f"{refused} refused")
    drawn.panel("Critical requests, from asking to the end", 0, deadline * 1.1, "seconds")
    drawn.line([(0, deadline), (run.seconds, deadline)], "#c53030", "deadline", "6 4")
    answered = run.endings("critical")
    drawn.dots([(one.sent, one.seconds) for one in answered], COLOURS["critical"], "answered")
    late = [(one.sent, deadline * 1.08) for one in run.lost if one.priority == "critical"]
    drawn.dots(late, "#000000", "not in time")
    return drawn


def table(runs: dict[str, Run], deadline: float) -> Table:
    found = Table(title="The same hot day twice")
    for name in ("", *runs):
        found.add_column(name, justify="left" if not name else "right")

    def row(name: str, tell: Any) -> None:
        found.add_row(name, *(str(tell(one)) for one in runs.values()))

    row("hottest °C", lambda one: f"{max(moment.celsius for moment in one.board):.1f}")
    row(f"time slowed down (from {THROTTLES_AT:g} °C)", lambda one: f"{one.throttled:.0%}")
    for number, name in enumerate(NAMES[1:], start=1):
        row(f"first {name}, s", lambda one, number=number: _first(one, number))
    row("changes of the level", lambda one: len(one.levels) - 1)
    row("of them up again on the way down", _relapses)
    row(
        "critical p99 s",
        lambda one: (
            f"{one.critical_p99:.2f} of {deadline:g}, {len(one.endings('critical'))} answered"
        ),
    )
    for priority in COLOURS:
        row(f"{priority} answered", lambda one, p=priority: len(one.endings(p)))
        row(f"{priority} refused", lambda one, p=priority: len(one.endings(p, "refused")))
    row("reports accepted and answered", lambda one: f"{one.reports[0]} of {one.reports[1]}")
    row("requests lost", lambda one: len(one.lost) + one.reports[1] - one.reports[0])
    return found


def _first(run: Run, level: int) -> str:
    at = next((at for at, reached in run.levels if reached >= level), None)
    if at is None:
        return "-"
    celsius = min(run.board, key=lambda moment: abs(moment.at - at)).celsius
    return f"{at:.0f} at {celsius:.1f} °C"


def _relapses(run: Run) -> int:
    """Steps up after the first one down in the cool phase."""
    late = [level for at, level in run.levels if at >= run.cool_at]
    return sum(after > before for before, after in pairwise(late))


def draw(path: Path, runs: dict[str, Run], deadline: float) -> None:
    notes = [
        "Real: the daemon, the model, the requests and their times, every decision of the daemon.",
        "Simulated: the board, one mass (1.2 °C for each watt, 150 s) between 10 and 40 W by what "
        f"the worker computes, whose time goes {SPEED:g} times as fast, the daemon's rules too;",
        "and slowing down, for which the worker is stopped for half of the time.",
    ]
    speeds = [speed for one in runs.values() for points in _speeds(one) for _, speed in points]
    scale = Scale(
        max(one.seconds for one in runs.values()), 10 * math.ceil(max(speeds) / 10), deadline
    )
    columns = [column(at, name, one, scale) for at, (name, one) in enumerate(runs.items())]
    write(path, "A hot day on a recorded AGX Orin", NAMES[1:], notes, columns)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench thermal", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--picture", type=Path, default=Path("build/thermal.svg"))
    parser.add_argument("--deadline", type=float, default=5.0, help="of critical requests, seconds")
    parser.add_argument("--scale", type=float, default=1.0, help="of the length of all phases")
    options = parser.parse_args()
    model, deadline = options.model or default_model(), options.deadline
    names = {"with the levels": True, "without": False}
    runs = {name: run(model, options.scale, deadline, enabled) for name, enabled in names.items()}
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table(runs, deadline))
    for name, one in runs.items():
        whys = Counter(ending.why[:120] for ending in one.lost)
        for why, count in whys.items():
            console.print(f"{name}: {count} lost: {why}", markup=False)
    draw(options.picture, runs, deadline)
    console.print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
