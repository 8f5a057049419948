"""`./scripts/bench chat`: how much of what the kernels can do reaches the clients.

Every ratio is taken from pairs of runs that follow each other on the same machine, engine first,
HTTP second, so that it holds where absolute times drift. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from appliance import Appliance, default_model, serving
from ceiling import Ceiling
from load import Stream, stream, wave
from rich.console import Console
from rich.table import Table
from workload import long_prompt, short_prompts

from edge.host import cpu
from edge.types import EngineSettings

CONTEXT = 2048


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def chat(
    ceiling: Ceiling, appliance: Appliance, counts: list[int], tokens: int, runs: int
) -> Table:
    """Waves of `n` different chats: the engine alone, then the same through HTTP."""
    table = Table(title=f"chat: about 72 tokens in, {tokens} out, all different")
    for column in ("streams", "engine tok/s", "HTTP tok/s", "ratio", "first token p50/p95 s"):
        table.add_column(column, justify="right")
    table.add_column("inter-token p50/p99 ms", justify="right")
    for count in counts:
        engine, http, streams = [], [], list[Stream]()
        for run in range(runs):
            prompts = short_prompts(count, seed=1000 * count + run)
            engine.append(count * tokens / ceiling.wave(prompts, tokens))
            prompts = short_prompts(count, seed=1000 * count + run + 500)
            seconds, some = asyncio.run(wave(appliance.port, prompts, tokens))
            http.append(count * tokens / seconds)
            streams += some
        ratio = statistics.median(h / e for h, e in zip(http, engine, strict=True))
        firsts = [s.first for s in streams]
        gaps = [1000 * gap for s in streams for gap in s.gaps]
        table.add_row(
            str(count),
            f"{statistics.median(engine):.1f}",
            f"{statistics.median(http):.1f}",
            f"{ratio:.2f}",
            f"{percentile(firsts, 0.5):.2f} / {percentile(firsts, 0.95):.2f}",
            f"{percentile(gaps, 0.5):.0f} / {percentile(gaps, 0.99):.0f}",
        )
    return table


@dataclass
class LongPrompt:
    """Gaps between the tokens of 7 streams before and while a 1,500-token prompt comes in."""

    before: list[float]
    during: list[float]
    first: float
    """Seconds from the prompt to its first token."""

    stolen: float
    """Seconds of CPU that a hypervisor gave to other machines meanwhile."""


async def long_prompt_gaps(port: int, run: int) -> LongPrompt:
    tokens = 250
    prompts = short_prompts(7, seed=77_000 + run)
    streams = [Stream() for _ in prompts]
    running = [
        asyncio.create_task(stream(port, prompt, tokens, one))
        for prompt, one in zip(prompts, streams, strict=True)
    ]
    # Let them come into their stride first; the arrival is what is measured.
    await asyncio.gather(*(one.reached(20) for one in streams))
    settled = time.perf_counter()
    await asyncio.gather(*(one.reached(40) for one in streams))
    stolen = _stolen()
    long = await stream(port, long_prompt(1500, seed=run), 8)
    stolen = _stolen() - stolen
    await asyncio.gather(*running)
    # A token that makes no text sends nothing: where some did, a gap is not one of tokens.
    streams = [one for one in streams if len(one.pieces) == tokens]
    return LongPrompt(
        [gap for s in streams for gap in _gaps(s, settled, long.sent)],
        [gap for s in streams for gap in _gaps(s, long.sent, long.pieces[0])],
        long.first,
        stolen,
    )


def _stolen() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def _gaps(one: Stream, start: float, end: float) -> list[float]:
    """Gaps that end between two times; the first of a stream, its prompt, is not one."""
    return [b - a for a, b in zip(one.pieces, one.pieces[1:], strict=False) if start < b <= end]


def long_prompts(appliance: Appliance, runs: int) -> Table:
    table = Table(title="a 1,500-token prompt arrives while 7 streams run")
    for column in ("run", "usual gap ms", "worst before", "worst gap ms", "in steps"):
        table.add_column(column, justify="right")
    table.add_column("first token s", justify="right")
    table.add_column("stolen CPU s", justify="right")
    for run in range(runs):
        seen = asyncio.run(long_prompt_gaps(appliance.port, run))
        usual, worst = statistics.median(seen.before), max(seen.during)
        times = (f"{1000 * gap:.0f}" for gap in (usual, max(seen.before), worst))
        table.add_row(
            str(run + 1), *times, f"{worst / usual:.2f}", f"{seen.first:.1f}", f"{seen.stolen:.2f}"
        )
    return table


def main() -> None:
    # As an exception, so that the daemon which was started for this is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench chat", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--streams", default="1,4,8,16,32", help="numbers of streams to run")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs for each figure")
    options = parser.parse_args()
    counts = [int(number) for number in options.streams.split(",")]
    slots = max([*counts, 8])

    model = options.model or default_model()
    threads = cpu.usable_cores()
    settings = EngineSettings("auto", threads, None, slots, CONTEXT, "f16", 512, 0)
    console = Console()
    console.print(f"{model.name} on {cpu.model() or 'an unknown processor'}, {threads} threads")
    ceiling = Ceiling(model, settings)
    with serving(model, engine__slots=slots, engine__context=CONTEXT) as appliance:
        console.print(chat(ceiling, appliance, counts, options.tokens, options.runs))
        console.print(long_prompts(appliance, options.runs))
        daemon, worker = appliance.memory_mb()
    console.print(f"resident memory: daemon {daemon} MB, worker {worker} MB with {slots} slots")


if __name__ == "__main__":
    main()
