"""`./scripts/bench alarm`: a critical request comes while batch streams have all slots.

What its first token takes beyond the time in which its own prompt is computed, in steps of the
streams that it comes upon; how many steps these took meanwhile; and whether the stream that made
room for it says what it would have said. It comes at any moment of a step.
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
class Alarm:
    """Seconds to the first token, and of the prompt. steps: that the streams took meanwhile."""

    first: float
    prompt: float
    steps: int


@dataclass
class Run:
    """usual: seconds between tokens of the streams. same: texts of them that are what they are
    without an alarm."""

    alone: list[Alarm]
    usual: float
    beside: list[Alarm]
    same: int

    @property
    def waits(self) -> list[float]:
        """Beyond the prompt, in steps: what an alarm waits for, and its way there and back."""
        return [(one.first - one.prompt) / self.usual for one in self.beside]


async def measure(port: int, number: int) -> Run:
    prompts = short_prompts(STREAMS, seed=31_000 + number)
    source = random.Random(32_000 + number)
    waves = [stream(port, prompt, TOKENS, **BATCH) for prompt in prompts]
    wanted = await asyncio.gather(*waves)
    alone = [await _alarm(port, source, []) for _ in range(ALARMS)]
    streams = [Stream() for _ in prompts]
    running = [
        asyncio.create_task(stream(port, prompt, TOKENS, one, **BATCH))
        for prompt, one in zip(prompts, streams, strict=True)
    ]
    await asyncio.gather(*(one.reached(20) for one in streams))
    usual = statistics.median(gap for one in streams for gap in one.gaps[-15:])
    beside = []
    for _ in range(ALARMS):
        beside.append(await _alarm(port, source, streams))
        at = [len(one.pieces) for one in streams]
        await asyncio.gather(*(one.reached(n + 8) for one, n in zip(streams, at, strict=True)))
        await asyncio.sleep(source.random() * usual)
    if any(one.done for one in streams):
        raise RuntimeError("a stream ended before the last alarm: nothing was made room for")
    await asyncio.gather(*running)
    same = sum(one.text == other.text for one, other in zip(wanted, streams, strict=True))
    return Run(alone, usual, beside, same)


async def _alarm(port: int, source: random.Random, streams: list[Stream]) -> Alarm:
    """One, whose first words nobody has had computed."""
    prompt = (
        f"Alarm {source.randrange(10**6):06}: the pump shows a pressure of 731 and the valve a "
        "flow of 108. Explain what the operator should check first, and why."
    )
    found = await stream(port, prompt, 4, **CRITICAL)
    until = found.sent + found.first
    steps = [sum(found.sent < at < until for at in one.pieces) for one in streams]
    return Alarm(found.first, found.prompt, max(steps, default=0))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench alarm", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    model = options.model or default_model()
    table = Table(title=f"{ALARMS} critical requests come upon {STREAMS} batch streams")
    for column in (
        "run",
        "step ms",
        "first token alone ms",
        "first token then ms",
        "its prompt ms",
    ):
        table.add_column(column, justify="right")
    table.add_column("the rest, steps", justify="right")
    table.add_column("steps of the streams", justify="right")
    table.add_column("same texts as without", justify="right")
    waits: list[float] = []
    with serving(model, engine__slots=STREAMS, engine__context=2048) as appliance:
        for number in range(options.runs):
            found = asyncio.run(measure(appliance.port, number))
            waits += found.waits
            table.add_row(
                str(number + 1),
                f"{1000 * found.usual:.0f}",
                " ".join(f"{1000 * one.first:.0f}" for one in found.alone),
                " ".join(f"{1000 * one.first:.0f}" for one in found.beside),
                " ".join(f"{1000 * one.prompt:.0f}" for one in found.beside),
                " ".join(f"{one:.2f}" for one in found.waits),
                " ".join(str(one.steps) for one in found.beside),
                f"{found.same} of {STREAMS}",
            )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    within = sum(one <= 2 for one in waits)
    console.print(f"{within} of {len(waits)} within 2 steps; median {statistics.median(waits):.2f}")


if __name__ == "__main__":
    main()
