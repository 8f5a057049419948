"""`./scripts/bench draft --model LARGE.gguf --draft SMALL.gguf`: whether a pair of models pays.

One engine answers the same questions without drafts, with those that the text itself makes, and
with the second model's besides, in turns, so that a machine that slows down slows all three. The
texts have to be the same. Processor time is of all threads, and says more where the machine has
other work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from appliance import default_model
from rich.console import Console
from rich.table import Table

from edge.cli.load.workloads import questions
from edge.engine.chat import ChatTemplate
from edge.engine.draft_load import load_draft
from edge.engine.draft_model import DraftModel
from edge.engine.drafts import Drafter
from edge.engine.engine import Engine
from edge.engine.intake import Intake
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.host import cpu
from edge.types import ChatPrompt, Delta, EngineSettings, Finished, Generation, Message, Sampling

WAYS = ("none", "lookup", "model")


@dataclass
class Round:
    """What one way of answering some questions took and said."""

    seconds: float = 0.0
    processor: float = 0.0
    drafted: int = 0
    accepted: int = 0
    tokens: dict[str, list[int]] = field(default_factory=dict)


class Pair:
    """A model, the one that drafts for it, and three ways to use them."""

    def __init__(self, model: Path, draft: Path, settings: EngineSettings) -> None:
        log = LlamaLog()
        self.first = LlamaBackend("large", model, settings, log)
        self.second = load_draft(self.first, settings, log)
        size = self.first.vocabulary.size
        self.drafters = {
            "none": None,
            "lookup": Drafter(),
            "model": Drafter(DraftModel(self.second, size)),
        }
        source = self.first.chat_template()
        assert source is not None, "the model has no chat template"
        template = ChatTemplate(source, self.first.vocabulary)
        self.intake = Intake(self.first.vocabulary, lambda: template, self.first.context)

    def answer(self, way: str, asked: list[Generation], streams: int) -> Round:
        """All of them, so many at once, beginning with empty slots."""
        for slot in range(self.first.slots):
            self.first.truncate(slot, 0)
        engine = Engine(self.first, drafter=self.drafters[way])
        waiting, done = list(asked), Round()
        began, processor = time.perf_counter(), time.process_time()
        while waiting or not engine.idle:
            while waiting and len(engine.running) + len(engine.waiting) < streams:
                engine.submit(self.intake.prepare(waiting.pop(0)))
            for event in [*engine.admit(), *engine.step()]:
                if isinstance(event, Delta):
                    done.tokens.setdefault(event.id, []).extend(event.tokens)
                elif isinstance(event, Finished):
                    done.drafted += event.usage.drafted_tokens
                    done.accepted += event.usage.accepted_tokens
        done.seconds = time.perf_counter() - began
        done.processor = time.process_time() - processor
        return done


def asked(workload: str, seed: str, count: int, tokens: int) -> list[Generation]:
    greedy = Sampling(temperature=0)
    return [
        Generation(
            str(number),
            ChatPrompt([Message(one["role"], one["content"]) for one in question.messages]),
            greedy,
            max_tokens=tokens,
        )
        for number, question in enumerate(questions(workload, seed, count))
    ]


def compare(pair: Pair, workload: str, streams: int, options: argparse.Namespace) -> list[str]:
    """A row: medians of the rounds' ratios to answers without drafts. The first does not count."""
    rounds: list[dict[str, Round]] = []
    for number in range(options.rounds + 1):
        prompts = asked(workload, f"draft {number}", max(2, streams), options.tokens)
        order = WAYS if number % 2 else WAYS[::-1]
        done = {way: pair.answer(way, prompts, streams) for way in order}
        for way in WAYS[1:]:
            assert done[way].tokens == done["none"].tokens, f"{way} changed a text"
        rounds.append(done)
    cells = [workload, str(streams)]
    for way in WAYS[1:]:
        wall = [one["none"].seconds / one[way].seconds for one in rounds[1:]]
        work = [one["none"].processor / one[way].processor for one in rounds[1:]]
        drafted = sum(one[way].drafted for one in rounds[1:])
        accepted = sum(one[way].accepted for one in rounds[1:])
        cells += [
            f"{statistics.median(wall):.2f}",
            f"{statistics.median(work):.2f}",
            f"{accepted} of {drafted}",
        ]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench draft", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--draft", type=Path, help="a smaller one of its family")
    parser.add_argument("--streams", default="1,4", help="answers at once")
    parser.add_argument("--workloads", default="chat,extract", help="as in `edge bench`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="longest answer")
    parser.add_argument("--threads", type=int, default=cpu.usable_cores())
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)
    if options.draft is None:
        console.print("no draft model: --draft names one")
        return
    counts = [int(number) for number in options.streams.split(",")]
    settings = EngineSettings("auto", options.threads, None, max(counts), 1024, "f16", 512, 0)
    settings.draft_model, settings.draft_path = "small", str(options.draft)
    pair = Pair(options.model or default_model(), options.draft, settings)
    table = Table(title="times as fast as without drafts (wall clock, processor), and drafts kept")
    for column in ("workload", "streams"):
        table.add_column(column)
    for way in ("copies", "and a model"):
        for column in (way, "proc.", "kept"):
            table.add_column(column, justify="right")
    for workload in options.workloads.split(","):
        for streams in counts:
            table.add_row(*compare(pair, workload, streams, options))
    console.print(table)


if __name__ == "__main__":
    main()
