"""`./scripts/bench alarm`: a critical request comes while batch streams have all slots.

How long its first token takes beyond what its prompt takes alone, in steps of the streams that it
comes upon, and whether the stream that made room for it says what it would have said.
"""

from __future__ import annotations

import argparse
import asyncio
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

STREAMS, TOKENS = 8, 120
BATCH: dict[str, Any] = {"edge": {"priority": "batch"}}
CRITICAL: dict[str, Any] = {"edge": {"priority": "critical"}}


@dataclass
class Alarm:
    """Seconds: alone, to the first token; usual, between tokens of the streams; first, to the
    first token while they run. same: texts of the streams that are what they are without it."""

    alone: float
    usual: float
    first: float
    same: int

    @property
    def steps(self) -> float:
        return (self.first - self.alone) / self.usual


async def alarm(port: int, run: int) -> Alarm:
    prompts = short_prompts(STREAMS, seed=31_000 + run)
    # Two that share no words, so that neither finds anything computed.
    quiet, urgent = short_prompts(2, seed=32_000 + run)
    waves = [stream(port, prompt, TOKENS, **BATCH) for prompt in prompts]
    wanted = await asyncio.gather(*waves)
    alone = await stream(port, quiet, 4, **CRITICAL)
    streams = [Stream() for _ in prompts]
    running = [
        asyncio.create_task(stream(port, prompt, TOKENS, one, **BATCH))
        for prompt, one in zip(prompts, streams, strict=True)
    ]
    await asyncio.gather(*(one.reached(30) for one in streams))
    usual = statistics.median(gap for one in streams for gap in one.gaps[-15:])
    critical = await stream(port, urgent, 4, **CRITICAL)
    await asyncio.gather(*running)
    same = sum(one.text == other.text for one, other in zip(wanted, streams, strict=True))
    return Alarm(alone.first, usual, critical.first, same)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench alarm", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    model = options.model or default_model()
    table = Table(title=f"a critical request comes upon {STREAMS} batch streams")
    for column in ("run", "step ms", "first token alone ms", "first token then ms"):
        table.add_column(column, justify="right")
    table.add_column("beyond its prompt, steps", justify="right")
    table.add_column("same texts as without", justify="right")
    with serving(model, engine__slots=STREAMS, engine__context=2048) as appliance:
        for run in range(options.runs):
            found = asyncio.run(alarm(appliance.port, run))
            times = (f"{1000 * one:.0f}" for one in (found.usual, found.alone, found.first))
            same = f"{found.same} of {STREAMS}"
            table.add_row(str(run + 1), *times, f"{found.steps:.2f}", same)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    main()
