"""The floor: llama.cpp with no server and no engine, computing only what has to be computed.

The questions of a workload are laid out in waves, each prefix that several of them share is
computed once and copied, and then all take one token a step. No prompt waits and no client is
late, so no server of the same kernels can be faster.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge.cli.load.workloads import Question
from edge.engine.backend import Chunk
from edge.engine.chat import ChatTemplate
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.engine.slots import common_prefix
from edge.types import EngineSettings, Message


class Floor:
    """A loaded model with one slot more than clients: the prefixes are computed there."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        self.backend = LlamaBackend("floor", path, settings, LlamaLog())
        template = self.backend.chat_template()
        assert template is not None
        self._template = ChatTemplate(template, self.backend.vocabulary)
        self._prefix: list[int] = []

    def prompt(self, question: Question) -> list[int]:
        turns = [Message(turn["role"], turn["content"]) for turn in question.messages]
        return self._template.tokens(turns)

    def seconds(self, questions: Sequence[Question], lengths: Sequence[int], clients: int) -> float:
        """Time for waves of `clients` of the questions, with answers of these lengths (tokens).

        A prefix is copied where the question before it shares at least half of its tokens.
        """
        prompts = [self.prompt(question) for question in questions]
        began = time.perf_counter()
        for first in range(0, len(prompts), clients):
            wave = slice(first, first + clients)
            self._wave(prompts[wave], lengths[wave], self._shared(prompts))
        return time.perf_counter() - began

    @staticmethod
    def _shared(prompts: Sequence[list[int]]) -> int:
        shared = min(common_prefix(prompts[0], prompt) for prompt in prompts)
        return shared if shared > len(prompts[0]) / 2 else 0

    def _wave(self, prompts: Sequence[list[int]], lengths: Sequence[int], shared: int) -> None:
        """The spare slot keeps the prefix from wave to wave."""
        spare = self.backend.slots - 1
        if shared and self._prefix != prompts[0][:shared]:
            self._prefix = prompts[0][:shared]
            self.backend.truncate(spare, 0)
            size = self.backend.batch
            for start in range(0, shared, size):
                part = self._prefix[start : start + size]
                self._compute([(spare, start, part)], output=False)
        for slot in range(len(prompts)):
            if shared:
                self.backend.copy(spare, slot, shared)
            else:
                self.backend.truncate(slot, 0)
        rest = [(slot, shared, prompt[shared:]) for slot, prompt in enumerate(prompts)]
        chosen: dict[int, int] = {}
        while rest:
            batch, rest = self._next_batch(rest)
            chosen |= self._compute(batch, output=True)
        at = [len(prompt) for prompt in prompts]
        for step in range(1, max(lengths)):
            running = [slot for slot in range(len(prompts)) if step < lengths[slot]]
            chosen |= self._compute([(s, at[s] + step - 1, [chosen[s]]) for s in running], True)

    def _next_batch(
        self, rest: list[tuple[int, int, list[int]]]
    ) -> tuple[list[tuple[int, int, list[int]]], list[tuple[int, int, list[int]]]]:
        """Whole prompts as far as they fit: each gives its first token as soon as it can."""
        batch: list[tuple[int, int, list[int]]] = []
        room = self.backend.batch
        while rest and len(rest[0][2]) <= room:
            batch.append(rest.pop(0))
            room -= len(batch[-1][2])
        assert batch, "a prompt is longer than a batch"
        return batch, rest

    def _compute(self, chunks: list[tuple[int, int, list[int]]], output: bool) -> dict[int, int]:
        self.backend.decode([Chunk(slot, start, tokens, output) for slot, start, tokens in chunks])
        if not output:
            return {}
        best = np.argmax(self.backend.logits(), axis=1)
        return {chunk[0]: int(token) for chunk, token in zip(chunks, best, strict=True)}
