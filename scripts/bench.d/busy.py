"""`./scripts/bench busy`: what neighbours on the same cores cost, as shipped and as libgomp does.

llama.cpp's threads meet at hundreds of barriers in each step. libgomp lets a thread that waits
there keep its core for milliseconds, which takes it from the very thread that it waits for as soon
as anything else runs on the machine. Two workers of the default model, one as shipped and one with
libgomp's own setting, are measured in turns beside programs that compute without end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from appliance import default_model
from rich.console import Console
from rich.table import Table

from edge.host import cpu
from edge.runtime.runner import BARRIER_SPINS, SPIN_VARIABLE
from edge.tuning.candidate import Candidate, Figures, typical
from edge.tuning.workers import Workers
from edge.types import EngineSettings

LIBRARY_SPINS = "300000"
"""What libgomp does without being told, where there are no more threads than processors."""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many programs that never wait."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


async def load(lab: Workers, candidate: Candidate, spins: str) -> None:
    os.environ[SPIN_VARIABLE] = spins
    await lab.facts(candidate)


async def compare(candidate: Candidate, spins: list[str], busy: int, rounds: int) -> list[Figures]:
    """The typical figures with each number of spins, measured in turns."""
    labs = [Workers(candidate) for _ in spins]
    try:
        for lab, number in zip(labs, spins, strict=True):
            await load(lab, candidate, number)
            await lab.measure(candidate)
        found: list[list[Figures]] = [[] for _ in spins]
        with neighbours(busy):
            for _ in range(rounds):
                for lab, figures in zip(labs, found, strict=True):
                    figures.append(await lab.measure(candidate))
    finally:
        for lab in labs:
            await lab.keep()
    return [typical(figures) for figures in found]


async def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench busy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", default="0,1", help="numbers of busy programs")
    parser.add_argument("--spins", default=BARRIER_SPINS, help="settings to compare, with commas")
    options = parser.parse_args()
    cores = cpu.usable_cores()
    candidate = Candidate(
        default_model(), EngineSettings("cpu", cores, None, 16, 1024, "f16", 512, 0)
    )
    table = Table(title=f"tokens per second on {cores} threads")
    for head in ("busy programs", "spins", "prompt", "1 stream", "16 at once", "all, to libgomp's"):
        table.add_column(head, justify="right")
    spins = [LIBRARY_SPINS, *options.spins.split(",")]
    for busy in map(int, options.busy.split(",")):
        found = await compare(candidate, spins, busy, options.rounds)
        for number, one in zip(spins, found, strict=True):
            row = [f"{value:.0f}" for value in (one.prompt, one.single, one.crowd)]
            table.add_row(str(busy), number, *row, f"{one.score / found[0].score:.2f}")
    Console().print(table)


asyncio.run(main())
