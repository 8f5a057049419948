"""The lab of `edge tune` and `edge models optimize`: real workers with real work.

At most two models are loaded at once, the best so far and the one that is tried; a worker without
work computes nothing. Owned by one event loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from types import TracebackType

import msgspec

from edge.errors import ModelLoadFailed
from edge.metrics import Metrics
from edge.runtime.ask import ask
from edge.runtime.runner import ModelRunner
from edge.tuning.candidate import Candidate, Figures
from edge.types import Finished, Generation, ModelFacts, Sampling, TextPrompt, TokenPrompt

CROWD = 16
"""Requests at once in a round of `edge tune`, whatever the slots."""

QUESTIONS = (
    "The maintenance of a hydraulic press begins with",
    "Write a short report on the temperature of furnace 3:",
    "def moving_average(values, window):\n",
    'List the fields of this record as JSON: part 4711, torque 12.5 Nm, result OK.\n{"',
    "When a bearing runs hot, the first thing to check is",
    "Translate into German: The conveyor belt stops.\n",
)
"""What greedy tokens are compared on."""

COMPARED = 32
"""Tokens of each."""


class Work(msgspec.Struct, frozen=True):
    """Tokens of one round: of its prompt, of its single answer, of each answer of the crowd."""

    prompt: int = 256
    single: int = 24
    crowd: int = 12

    def scaled(self, factor: float, context: int) -> Work:
        """So many times as much, within what still measures something and what fits."""
        factor = min(4.0, max(0.25, factor))
        return Work(
            prompt=max(32, min(int(self.prompt * factor), context - 64)),
            single=max(6, min(int(self.single * factor), context - 64)),
            crowd=max(3, min(int(self.crowd * factor), context - 64)),
        )


class Workers:
    """A `Lab`. Leaving the context ends all workers."""

    def __init__(self, reference: Candidate, crowd: int = CROWD) -> None:
        """reference: the original weights; its tokens with an f16 cache are the right ones.
        crowd: requests at once in a round."""
        self.work = Work()
        self.crowd = crowd
        self.compared = COMPARED
        self._reference = reference.varied("kv_type", "f16")
        self._right: list[list[int]] = []
        self._running: dict[bytes, tuple[ModelRunner, asyncio.Task[None]]] = {}
        self._asked = 0
        self._random = random.Random(1)

    async def __aenter__(self) -> Workers:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.keep()

    async def facts(self, candidate: Candidate) -> ModelFacts:
        """Loads it if need be. Raises `EdgeError` when it does not load."""
        runner = await self._runner(candidate)
        assert runner.facts is not None
        return runner.facts

    async def calibrate(self, candidate: Candidate, seconds: float) -> None:
        """Fit the work of a round into about so many seconds here, seen from a little one."""
        facts = await self.facts(candidate)
        whole, little = self.work, 0.25
        self.work = whole.scaled(little, facts.context)
        await self.measure(candidate)  # the first one meets a cold cache
        began = time.perf_counter()
        await self.measure(candidate)
        took = time.perf_counter() - began
        self.work = whole.scaled(little * seconds / took, facts.context)

    async def measure(self, candidate: Candidate) -> Figures:
        runner = await self._runner(candidate)
        assert runner.facts is not None
        work, vocabulary = self.work, runner.facts.vocab
        [(first, _)] = await self._answers(runner, [self._noise(work.prompt, vocabulary)], 1)
        [(single, _)] = await self._answers(runner, [self._noise(8, vocabulary)], work.single)
        crowd = [self._noise(16, vocabulary) for _ in range(self.crowd)]
        began = time.perf_counter()
        answers = await self._answers(runner, crowd, work.crowd)
        seconds = time.perf_counter() - began
        tokens = sum(end.usage.completion_tokens for end, _ in answers)
        return Figures(
            prompt=work.prompt / max(first.usage.prompt_seconds, 1e-6),
            single=(work.single - 1) / max(single.usage.generation_seconds, 1e-6),
            crowd=tokens / seconds,
            memory_bytes=runner.stats.memory_bytes if runner.stats else 0,
        )

    async def agreement(self, candidate: Candidate) -> float:
        """At each place the candidate reads the right tokens before it, and chooses the next: one
        that differs does not make all that follow differ."""
        if not self._right:
            reference = await self._runner(self._reference)
            prompts = [TextPrompt(question) for question in QUESTIONS]
            answers = await self._answers(reference, prompts, self.compared)
            self._right = [tokens for _, tokens in answers]
        runner = await self._runner(candidate)
        same = 0
        for at in range(self.compared):
            known = [right[:at] for right in self._right]
            prompts = [TextPrompt(question) for question in QUESTIONS]
            answers = await self._answers(runner, prompts, at + 1, known)
            same += sum(
                tokens == right[at : at + 1]
                for (_, tokens), right in zip(answers, self._right, strict=True)
            )
        return same / (self.compared * len(QUESTIONS))

    async def keep(self, *candidates: Candidate) -> None:
        wanted = {_key(candidate) for candidate in candidates}
        for key in [key for key in self._running if key not in wanted]:
            runner, task = self._running.pop(key)
            await runner.stop()
            await task

    async def _runner(self, candidate: Candidate) -> ModelRunner:
        key = _key(candidate)
        if key not in self._running:
            runner = ModelRunner("tune", candidate.path, candidate.settings, Metrics())
            task = asyncio.create_task(runner.run(), name="worker")
            self._running[key] = (runner, task)
        runner, _ = self._running[key]
        await runner.loaded.wait()
        if runner.state == "failed":
            raise runner.error or ModelLoadFailed("it does not load")
        if runner.restarts:
            raise ModelLoadFailed("its worker died")
        return runner

    def _noise(self, count: int, vocabulary: int) -> TokenPrompt:
        """Tokens that no slot holds yet."""
        return TokenPrompt([self._random.randrange(1, vocabulary) for _ in range(count)])

    async def _answers(
        self,
        runner: ModelRunner,
        prompts: Sequence[TextPrompt | TokenPrompt],
        tokens: int,
        known: Sequence[list[int]] | None = None,
    ) -> list[tuple[Finished, list[int]]]:
        """All at once, greedy, each of `tokens` tokens; known: those that are there already."""
        asked = []
        for at, prompt in enumerate(prompts):
            self._asked += 1
            asked.append(
                Generation(
                    f"{self._asked}",
                    prompt,
                    Sampling(temperature=0),
                    max_tokens=tokens,
                    ignore_eos=True,
                    resume=known[at] if known else [],
                )
            )
        return [(said.finished, said.tokens) for said in await ask(runner, asked)]


def _key(candidate: Candidate) -> bytes:
    return str(candidate.path).encode() + msgspec.json.encode(candidate.settings)
