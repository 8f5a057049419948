"""`./scripts/bench alarm`: a critical request comes while batch streams have all slots.

How long its first token takes beyond what such a prompt takes alone, in steps of the streams that it
comes upon, and whether the stream that made room for it says what it would have said. All critical
prompts are of one length, and come at any moment of a step.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import default_model, serving
from load import Stream, stream
from rich.console import Console
from rich.table import Table
from workload import short_prompts

STREAMS, TOKENS = 8, 160
ALARMS = 5
"""Of each run: so many alone, and so many beside the streams."""

BATCH: dict[str, Any] = {"edge": {"priority": "batch"}}
CRITICAL: dict[str, Any] = {"edge": {"priority": "critical"}}


@dataclass
class Run:
    """Seconds: alone, to the first tokens; usual, between tokens of the streams; beside, to the
    first tokens while they run. same: texts of the streams that are what they are without."""

    alone: list[float]
    usual: float
    beside: list[float]
    same: int

    @property
    def steps(self) -> list[float]:
        """Beyond the prompt, of each alarm."""
        alone = statistics.median(self.alone)
        return [(first - alone) / self.usual for first in self.beside]


async def measure(port: int, number: int) -> Run:
    prompts = short_prompts(STREAMS, seed=31_000 + number)
    source = random.Random(32_000 + number)
    waves = [stream(port, prompt, TOKENS, **BATCH) for prompt in prompts]
    wanted = await asyncio.gather(*waves)
    alone = [await _first(port, source) for _ in range(ALARMS)]
    streams = [Stream() for _ in prompts]
    running = [
        asyncio.create_task(stream(port, prompt, TOKENS, one, **BATCH))
        for prompt, one in zip(prompts, streams, strict=True)
    ]
    await asyncio.gather(*(one.reached(20) for one in streams))
    usual = statistics.median(gap for one in streams for gap in one.gaps[-15:])
    beside = []
    for _ in range(ALARMS):
        beside.append(await _first(port, source))
        at = [len(one.pieces) for one in streams]
        await asyncio.gather(*(one.reached(n + 8) for one, n in zip(streams, at, strict=True)))
        await asyncio.sleep(source.random() * usual)
    if any(one.done for one in streams):
        raise RuntimeError("a stream ended before the last alarm: nothing was made room for")
    await asyncio.gather(*running)
    same = sum(one.text == other.text for one, other in zip(wanted, streams, strict=True))
    return Run(alone, usual, beside, same)


async def _first(port: int, source: random.Random) -> float:
    """Seconds to the first token of one, whose first words nobody has had computed."""
    digits = f"{source.randrange(10**6):06}"
    prompt = (
        f"Alarm {digits}: the pump shows a pressure of 731 and the valve a flow of 108. "
        "Explain what the operator should check first, and why."
    )
    return (await stream(port, prompt, 4, **CRITICAL)).first


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench alarm", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    model = options.model or default_model()
    table = Table(title=f"{ALARMS} critical requests come upon {STREAMS} batch streams")
    for column in ("run", "step ms", "first token alone ms", "first token then ms"):
        table.add_column(column, justify="right")
    table.add_column("beyond its prompt, steps: each", justify="right")
    table.add_column("median", justify="right")
    table.add_column("same texts as without", justify="right")
    every: list[float] = []
    with serving(model, engine__slots=STREAMS, engine__context=2048) as appliance:
        for number in range(options.runs):
            found = asyncio.run(measure(appliance.port, number))
            every += found.steps
            table.add_row(
                str(number + 1),
                f"{1000 * found.usual:.0f}",
                *(" ".join(f"{1000 * one:.0f}" for one in all_) for all_ in (found.alone, found.beside)),
                " ".join(f"{one:.2f}" for one in found.steps),
                f"{statistics.median(found.steps):.2f}",
                f"{found.same} of {STREAMS}",
            )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    within = sum(one <= 2 for one in every)
    console.print(f"{within} of {len(every)} within 2 steps; median {statistics.median(every):.2f}")


if __name__ == "__main__":
    main()
