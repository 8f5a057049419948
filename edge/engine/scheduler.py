"""Who runs in the next step, and how many prompt tokens.

Every sequence that is generating gets its one token each step. What is left of the step goes to
prompts, oldest first, in chunks that are small enough for the running streams not to notice:
a step with a chunk in it takes at most `STRETCH` times a step without. How long that is, is
learned from the steps themselves, so it holds on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.engine.sequence import Sequence

STRETCH = 2.5
"""Longest step with a prompt chunk, in steps without one."""

SMALLEST_CHUNK = 8
"""Below this a prompt would take forever for nothing."""

MEMORY = 0.3
"""Weight of the newest measurement in a running mean."""


class StepCost:
    """Running means of what steps cost, in seconds."""

    def __init__(self) -> None:
        self._decode: dict[int, float] = {}
        self._prompt_token: float | None = None

    def observe(self, decodes: int, prompt_tokens: int, seconds: float) -> None:
        if prompt_tokens == 0:
            known = self._decode.get(decodes, seconds)
            self._decode[decodes] = known + MEMORY * (seconds - known)
        elif decodes and (base := self.decode_seconds(decodes)) is not None:
            each = max(seconds - base, 0.0) / prompt_tokens
            known = each if self._prompt_token is None else self._prompt_token
            # A surprise upwards counts at once: it was a gap that somebody saw.
            self._prompt_token = max(each, known + MEMORY * (each - known))

    def decode_seconds(self, decodes: int) -> float | None:
        """Of a step with that many generating sequences; by the nearest count ever seen."""
        if not self._decode:
            return None
        return self._decode[min(self._decode, key=lambda count: abs(count - decodes))]

    def chunk(self, decodes: int) -> int | None:
        """Prompt tokens that fit beside that many generating sequences, None if unknown yet."""
        step = self.decode_seconds(decodes)
        if step is None or self._prompt_token is None:
            return None
        return int((STRETCH - 1) * step / max(self._prompt_token, 1e-9))


class Scheduler:
    """Stateless about requests; it remembers only what steps cost."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.cost = StepCost()
        self._last_chunk = SMALLEST_CHUNK

    def plan(self, running: Iterable[Sequence]) -> list[tuple[Sequence, int]]:
        """Pairs of sequence and tokens to compute; `running` is in order of arrival."""
        decodes: list[tuple[Sequence, int]] = []
        prompts: list[Sequence] = []
        for sequence in running:
            if sequence.decoding:
                decodes.append((sequence, 1))
            else:
                prompts.append(sequence)
        budget = self._prompt_budget(len(decodes)) if prompts else 0
        plan = decodes
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
        if decodes and prompt_tokens:
            self._last_chunk = prompt_tokens
        self.cost.observe(decodes, prompt_tokens, seconds)

    def _prompt_budget(self, decodes: int) -> int:
        room = self.batch - decodes
        if decodes == 0:
            return room
        fits = self.cost.chunk(decodes)
        if fits is None:
            fits = SMALLEST_CHUNK
        # Costs are not linear in the size, so approach a larger chunk by doubling.
        return max(1, min(room, max(SMALLEST_CHUNK, min(fits, 2 * self._last_chunk))))
