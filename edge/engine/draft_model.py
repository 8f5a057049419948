"""A second, smaller model that writes ahead: it follows the sequences and says how they may go on.

Its slots have the numbers of the model's own, and a cache of their own. What they hold is known
here, and brought to what a sequence is when that is asked to go on: cut where the two part, then
computed. So a sequence that was parked, cancelled or moved needs no care, and a slot that holds
something else only costs time. The texts do not depend on it. Owned by the engine's thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import numpy as np

from edge.engine.backend import Backend, Chunk
from edge.engine.draft_cost import HICCUP, LinearTime
from edge.engine.sequence import Sequence
from edge.engine.slots import COPY_PAYS, common_prefix

SURE = 0.3
"""Least probability that the model gives a token which it writes ahead. Less likely ones were right
half of the time at most, when coarser copies of the default model wrote ahead for it."""


class DraftModel:
    """The second model.

    time: what its steps take, kept up to date with each. seconds: what all of them took. Tokens
    that the first model does not have, as when one of two vocabularies is padded, are never
    written, and a sequence with tokens that the second does not have is not followed.
    """

    def __init__(
        self,
        backend: Backend,
        vocabulary: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """backend: with the slots of the first model. vocabulary: the tokens of that one."""
        self.time = LinearTime()
        self._backend = backend
        self._clock = clock
        self.seconds = 0.0
        self._lacks_some = backend.vocabulary.size < vocabulary
        self._both = min(vocabulary, backend.vocabulary.size)
        self._held: list[list[int]] = [[] for _ in range(backend.slots)]
        self._owner = [""] * backend.slots
        self._most = 0

    @property
    def longest(self) -> int:
        """Most tokens that it ever computed in a step."""
        return self._most

    def meet(self, sequence: Sequence) -> None:
        """Of a sequence that comes new into its slot, what another slot has too is copied, where
        that costs less than computing it."""
        slot = sequence.slot
        assert slot is not None
        shared = {
            other: common_prefix(held, sequence.tokens[:-1])
            for other, held in enumerate(self._held)
            if held and self._owner[other] == sequence.owner
        }
        best = max(shared, key=lambda other: shared[other], default=slot)
        if shared.get(best, 0) - shared.get(slot, 0) >= COPY_PAYS:
            self._backend.copy(best, slot, shared[best])
            self._held[slot] = self._held[best][: shared[best]]
            self._owner[slot] = sequence.owner

    def behind(self, sequence: Sequence) -> int | None:
        """Tokens to compute before it can go on, at least one; None where it never can."""
        tokens = sequence.tokens
        if len(tokens) >= self._backend.context:
            return None
        new = tokens[self._shared(sequence) :]
        if self._lacks_some and max(new) >= self._both:
            return None
        return len(new)

    def catch_up(self, sequence: Sequence, most: int) -> None:
        """Compute up to so many of the tokens that it is behind, all but the last."""
        self.meet(sequence)
        start = self._shared(sequence)
        tokens = sequence.tokens[start:-1][: min(most, self._backend.batch)]
        if tokens:
            began = self._clock()
            self._compute([Chunk(self._cut(sequence, start), start, tokens, 0)])
            self._learn(len(tokens), self._clock() - began)

    def write(self, wanted: Iterable[tuple[Sequence, int]]) -> dict[str, list[int]]:
        """How each goes on, by its id: up to so many tokens, the likeliest one after the other.

        What is written ends early where the model is not sure, behind the end of an answer, and
        where its context does. All are computed together. One that there is no room for in the
        first step is left out.
        """
        drafts: dict[str, list[int]] = {}
        active: list[tuple[Sequence, int, Chunk]] = []
        room = self._backend.batch
        for sequence, most in sorted(wanted, key=lambda one: one[0].slot or 0):
            start = self._shared(sequence)
            tokens = sequence.tokens[start:]
            room -= len(tokens)
            most = min(most, self._backend.context - len(sequence.tokens))
            if room < 0 or most < 1:
                continue
            drafts[sequence.id] = []
            active.append((sequence, most, Chunk(self._cut(sequence, start), start, tokens, 1)))
        while active:
            began = self._clock()
            chunks = [chunk for _, _, chunk in active]
            self._compute(chunks)
            active = self._lengthen(active, drafts)
            self._learn(sum(len(chunk.tokens) for chunk in chunks), self._clock() - began)
        return drafts

    def _lengthen(
        self, active: list[tuple[Sequence, int, Chunk]], drafts: dict[str, list[int]]
    ) -> list[tuple[Sequence, int, Chunk]]:
        """Add a token to each draft; returns those that go on, with what is to be computed."""
        further = []
        logits = self._backend.logits()
        for row, (sequence, most, chunk) in enumerate(active):
            scores = logits[row, : self._both]
            token = int(np.argmax(scores))
            total = float(np.exp(scores - scores[token]).sum())
            if not (math.isfinite(total) and total * SURE <= 1):
                continue
            draft = drafts[sequence.id]
            draft.append(token)
            if len(draft) < most and not sequence.vocabulary.is_end(token):
                end = chunk.start + len(chunk.tokens)
                further.append((sequence, most, Chunk(chunk.slot, end, [token], 1)))
        return further

    def _shared(self, sequence: Sequence) -> int:
        """How many of its tokens its slot has, the last one never."""
        slot = sequence.slot
        assert slot is not None
        if self._owner[slot] != sequence.owner:
            return 0
        return common_prefix(self._held[slot], sequence.tokens[:-1])

    def _cut(self, sequence: Sequence, length: int) -> int:
        """Make its slot hold so many of its tokens and nothing else."""
        slot = sequence.slot
        assert slot is not None
        if length < len(self._held[slot]):
            self._backend.truncate(slot, length)
            del self._held[slot][length:]
        self._owner[slot] = sequence.owner
        return slot

    def _compute(self, chunks: list[Chunk]) -> None:
        self._backend.decode(chunks)
        for chunk in chunks:
            self._held[chunk.slot].extend(chunk.tokens)

    def _learn(self, tokens: int, seconds: float) -> None:
        self.seconds += seconds
        # A step that takes far longer than others of its length did: the machine was busy.
        if tokens <= self._most:
            seconds = min(seconds, HICCUP * self.time.of(tokens))
        self._most = max(self._most, tokens)
        self.time.observe(tokens, seconds)
