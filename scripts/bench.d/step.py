"""`./scripts/bench step`: where the time of a step goes, from the plan to the frame that is sent.

The engine is stepped in this process over real chats, with a clock around its parts; the clocks
themselves take well below a thousandth of a step. What no clock is around is Python in between.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
from appliance import default_model
from ceiling import Ceiling
from rich.console import Console
from rich.table import Table
from workload import short_prompts

from edge.cli.load.workloads import REPORT_SCHEMA
from edge.engine.grammar import Constraint
from edge.engine.sampling import Sampler
from edge.engine.scheduler import Scheduler
from edge.engine.text import TextStream
from edge.frames import pack
from edge.host import cpu
from edge.runtime.protocol import Frame
from edge.types import ChatPrompt, EngineSettings, Generation, Grammar, Message, Sampling

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": Sampling(temperature=0)},
    "sampled": {"sampling": Sampling(temperature=0.8, top_p=0.95, top_k=40, seed=1)},
    "penalties": {"sampling": Sampling(temperature=0.8, frequency_penalty=0.5, seed=1)},
    "logprobs": {"sampling": Sampling(temperature=0), "logprobs": 5},
    "JSON": {
        "sampling": Sampling(temperature=0),
        "grammar": Grammar("json_schema", json.dumps(REPORT_SCHEMA)),
    },
}
TOKENS = 64


class Clocks:
    """Seconds spent in functions, by the name of their part."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def around(self, owner: Any, name: str, part: str) -> None:
        """Time all calls of `owner.name` from now on."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - began

        setattr(owner, name, timed)


PARTS = ("kernels", "batch", "plan", "choice", "forced", "text", "frame", "rest")
INSIDE = {"batch": ("kernels",)}
"""Parts whose clock runs around that of others."""


def profile(ceiling: Ceiling, clocks: Clocks, streams: int, kind: str, seed: int) -> list[str]:
    """A row: milliseconds of a step without prompts, and the share of each part in percent."""
    engine = ceiling.engine
    for number, prompt in enumerate(short_prompts(streams, seed)):
        chat = ChatPrompt([Message("user", prompt)])
        fields = {"max_tokens": TOKENS, "ignore_eos": "grammar" not in KINDS[kind], **KINDS[kind]}
        generation = Generation(str(number), chat, **fields)
        engine.submit(ceiling.intake.prepare(generation))
    engine.admit()
    while any(not sequence.decoding for sequence in engine.running.values()):
        engine.step()
    clocks.seconds.clear()
    steps, began = 0, time.perf_counter()
    while 2 * len(engine.running) > streams:  # until half of them have ended
        events = [*engine.admit(), *engine.step()]
        sent = time.perf_counter()
        pack(Frame(events, engine.stats(), engine.take_spans(), sent))
        clocks.seconds["frame"] += time.perf_counter() - sent
        steps += 1
    whole = time.perf_counter() - began
    for sequence in list(engine.running):
        engine.cancel(sequence)
    taken = dict(clocks.seconds)
    for part, inner in INSIDE.items():
        taken[part] = taken.get(part, 0.0) - sum(taken.get(one, 0.0) for one in inner)
    taken["rest"] = whole - sum(taken.values())
    shares = [f"{100 * taken.get(part, 0.0) / whole:.2f}" for part in PARTS]
    return [str(streams), kind, f"{1000 * whole / steps:.1f}", *shares]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench step", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--streams", default="1,8", help="numbers of streams to run")
    options = parser.parse_args()
    counts = [int(number) for number in options.streams.split(",")]
    settings = EngineSettings("auto", cpu.usable_cores(), None, max(counts), 1024, "f16", 512, 0)
    ceiling = Ceiling(options.model or default_model(), settings)
    clocks = Clocks()
    clocks.around(lib, "llama_decode", "kernels")
    clocks.around(lib, "llama_synchronize", "kernels")
    clocks.around(ceiling.engine.backend, "decode", "batch")
    clocks.around(Scheduler, "plan", "plan")
    clocks.around(Sampler, "choose", "choice")
    clocks.around(Constraint, "forced", "forced")
    clocks.around(TextStream, "push", "text")
    table = Table(title="a step without prompts: milliseconds, and percent of them")
    for column in ("streams", "sampling", "ms", *PARTS):
        table.add_column(column, justify="right")
    for streams in counts:
        profile(ceiling, clocks, streams, "greedy", seed=0)  # warm
        for at, kind in enumerate(KINDS):
            table.add_row(*profile(ceiling, clocks, streams, kind, seed=100 + at))
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    main()
