"""Who runs in the next step, and how many prompt tokens.

Every sequence that is generating gets its one token each step. What is left of the step goes to
prompts, oldest first, in chunks small enough for the running streams not to notice: a step with
a chunk in it should take `STRETCH` times a step without. The size that does is found by feedback
from the steps themselves, so it holds on any machine, whatever the cost of a chunk looks like.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.engine.sequence import Sequence

STRETCH = 2.2
"""Aimed-at length of a step with a prompt chunk, in steps without one. Streams are promised 3."""

SMALLEST_CHUNK = 8
"""Below this a prompt would take forever for nothing."""

GROWTH = 1.25
"""Most that the chunk grows from one step to the next. It may shrink by as much as it must."""

PLAIN_EVERY = 32
"""After so many steps with a chunk comes one without, to measure anew what the others go by."""

MEMORY = 0.3
"""Weight of the newest step in the running mean of step times."""

MEMORY_AFRESH = 0.5
"""The same for a plain step after so many chunks, when what was known is old."""


class ChunkSize:
    """The number of prompt tokens to put beside generating sequences, learned from steps."""

    def __init__(self) -> None:
        self.tokens = float(SMALLEST_CHUNK)
        self._plain: dict[int, float] = {}
        self._since_plain = 0

    def observe(self, decodes: int, prompt_tokens: int, seconds: float) -> None:
        """A step with that many generating sequences and prompt tokens took that long."""
        if decodes == 0:
            return
        if prompt_tokens == 0:
            known = self._plain.get(decodes, seconds)
            weight = MEMORY if self._since_plain < PLAIN_EVERY else MEMORY_AFRESH
            # One step that took far longer is a hiccup of the machine until it happens again.
            self._plain[decodes] = known + weight * (min(seconds, known * GROWTH) - known)
            self._since_plain = 0
            return
        self._since_plain += 1
        plain = self.plain_seconds(decodes)
        if plain is None:
            return
        factor = STRETCH * plain / seconds
        if factor < 1 or prompt_tokens >= int(self.tokens):
            size = prompt_tokens * min(factor, GROWTH)
            self.tokens = max(float(SMALLEST_CHUNK), size)

    def beside(self, decodes: int) -> int:
        """Prompt tokens for the next step; none when it has to tell what a plain step takes."""
        if self.plain_seconds(decodes) is None or self._since_plain >= PLAIN_EVERY:
            return 0
        return int(self.tokens)

    def plain_seconds(self, decodes: int) -> float | None:
        """Of a step without a chunk, by the nearest number of generating sequences seen.

        None if that is too far away: under load there may never be another plain step by chance.
        """
        nearest = min(self._plain, key=lambda count: abs(count - decodes), default=0)
        return self._plain[nearest] if abs(nearest - decodes) <= decodes // 4 else None


class Scheduler:
    """Stateless about requests; it remembers only what steps cost."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.chunk = ChunkSize()

    def plan(self, running: Iterable[Sequence]) -> list[tuple[Sequence, int]]:
        """Pairs of sequence and tokens to compute; `running` is in order of arrival."""
        plan: list[tuple[Sequence, int]] = []
        prompts: list[Sequence] = []
        for sequence in running:
            if sequence.decoding:
                plan.append((sequence, 1))
            else:
                prompts.append(sequence)
        budget = self.batch - len(plan)
        if plan:
            budget = min(budget, self.chunk.beside(len(plan)))
        for sequence in prompts:
            count = min(sequence.pending, budget)
            if count <= 0:
                break
            plan.append((sequence, count))
            budget -= count
        return plan

    def observe(self, plan: list[tuple[Sequence, int]], decodes: int, seconds: float) -> None:
        """Learn from a finished step of which `decodes` sequences were generating."""
        prompt_tokens = sum(count for _, count in plan) - decodes
        self.chunk.observe(decodes, prompt_tokens, seconds)
