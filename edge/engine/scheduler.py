"""Who runs in the next step, and how many prompt tokens.

Every sequence that is generating gets its one token each step, and a few more where its grammar
has fixed what comes next: those are not chosen, only computed. What is left of the step goes to
prompts: the most urgent first, then callers in turns, then the oldest. A critical one beside
nothing but batch work goes whole and alone, as far as the batch holds it: nobody reads along with
what waits for it. The others go in chunks small enough
for the running streams not to notice: a step with a chunk in it should take `STRETCH` times
a step without, and more only where more sequences wait for their first token than for their next;
or it should take as long as the configuration says. What a chunk costs is learned from the steps
themselves, so it holds on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.engine.sequence import Sequence
from edge.turns import Turns

STRETCH = 3.0
"""Aimed-at length of a step with a prompt chunk, in steps without one."""

UNNOTICED_SECONDS = 0.1
"""A step of this length disturbs nobody who reads, even where steps without a chunk are much
shorter. A prompt in fewer chunks is its slot's first token sooner, and the steps are fuller."""

SMALLEST_CHUNK = 4
"""Below this a prompt would take forever for nothing."""

MOST_FORCED = 16
"""Tokens that a generating sequence computes in a step at most, so that those beside it keep
their pace while a long text that a grammar fixed is computed."""

GROWTH = 2.0
"""Most that the chunk grows from one step to the next, because costs are not linear in it."""

REFRESH_STEPS = 32
"""Steps with chunks in a row, after which one without is due."""

MEMORY = 0.3
"""Weight of the newest step in running means."""

MEMORY_AFRESH = 0.5
"""The same for a plain step after many with chunks, when what was known is old."""

HICCUP = 1.25
"""More than this above what was known does not count for a plain step."""


class StepCost:
    """What steps were seen to take, in seconds.

    target: what a step with prompts beside streams should take; None for what `STRETCH` says.
    """

    def __init__(self, target: float | None = None) -> None:
        self._target = target
        self._plain: dict[int, float] = {}
        self._each: float | None = None
        self._last_chunk = SMALLEST_CHUNK
        self._mixed_in_a_row = 0

    def observe(self, decodes: int, prompt_tokens: int, seconds: float) -> None:
        """A step with that many generating sequences and prompt tokens took that long."""
        if prompt_tokens == 0:
            known = self._plain.get(decodes, seconds)
            weight = MEMORY if self._mixed_in_a_row < REFRESH_STEPS else MEMORY_AFRESH
            # One step that took far longer is a hiccup of the machine until it happens again.
            self._plain[decodes] = known + weight * (min(seconds, known * HICCUP) - known)
            self._mixed_in_a_row = 0
            return
        self._mixed_in_a_row += 1
        plain = self._plain.get(decodes)
        if plain is None:
            return
        each = max(seconds - plain, 1e-6) / prompt_tokens
        known = each if self._each is None else self._each
        self._each = known + MEMORY * (each - known)
        self._last_chunk = prompt_tokens

    def chunk(self, decodes: int, prompts: int) -> int:
        """Prompt tokens to put beside generating sequences while that many prompts wait.

        Now and then none: what a step with that many sequences takes has to be measured first,
        and again once in a while.
        """
        plain = self._plain.get(decodes)
        if plain is None or self._mixed_in_a_row >= REFRESH_STEPS:
            return 0
        if self._each is None:
            return SMALLEST_CHUNK
        allowed = self._step_seconds(plain, prompts / decodes) - plain
        return max(SMALLEST_CHUNK, int(min(allowed / self._each, GROWTH * self._last_chunk)))

    def _step_seconds(self, plain: float, crowd: float) -> float:
        """What a step with prompts may take. crowd: prompts for each stream that they delay."""
        if self._target is not None:
            return self._target
        return max(STRETCH * plain * max(1.0, crowd), UNNOTICED_SECONDS)


class Scheduler:
    """Remembers what steps cost and whose prompts were computed, and nothing of requests.

    inter_token_ms: what steps with prompts beside streams should take, if not relative to one
    without.
    """

    def __init__(self, batch: int, inter_token_ms: float | None = None) -> None:
        self.batch = batch
        self.cost = StepCost(None if inter_token_ms is None else inter_token_ms / 1000)
        self._turns = Turns()

    def plan(
        self, running: Iterable[Sequence], batch_chunk: float = 1.0
    ) -> list[tuple[Sequence, int]]:
        """Pairs of sequence and tokens to compute; `running` is in order of admission.

        batch_chunk: part of a whole step's tokens that prompts of batch work have at most.
        """
        generating: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in running:
            (generating if sequence.decoding else prompts).append(sequence)
        prompts.sort(key=lambda sequence: (sequence.rank, self._turns.place(sequence.caller)))
        alarms = [sequence for sequence in prompts if sequence.urgent]
        if alarms and all(sequence.unread for sequence in generating):
            return _fill(alarms, self.batch)
        plan: list[tuple[Sequence, int]] = []
        budget = self.batch - len(generating)
        # A small batch is not filled up with what grammars fix while prompts wait.
        room = budget // 2 if prompts else budget
        for sequence in generating:
            forced = min(sequence.pending - 1, MOST_FORCED - 1, room)
            plan.append((sequence, 1 + forced))
            room -= forced
            budget -= forced
        chunk = budget
        if plan and prompts:
            chunk = min(budget, self.cost.chunk(len(plan), len(prompts)))
        if batch_chunk < 1:
            return plan + self._fill_gently(prompts, chunk, batch_chunk)
        return plan + _fill(prompts, chunk)

    def _fill_gently(
        self, prompts: list[Sequence], room: int, batch_chunk: float
    ) -> list[tuple[Sequence, int]]:
        """Batch work last, and no more of it than its part."""
        plan = _fill([one for one in prompts if not one.unread], room)
        left = room - sum(count for _, count in plan)
        most = max(SMALLEST_CHUNK, int(self.batch * batch_chunk))
        return plan + _fill([one for one in prompts if one.unread], min(left, most))

    def observe(self, decodes: int, prompt_tokens: int, seconds: float) -> None:
        """Learn from a finished step of which `decodes` sequences were generating.

        What they computed beyond one token each belongs to their pace. A step with such tokens is
        a plain one: if it were none, answers that have some in every step would starve a prompt.
        """
        self.cost.observe(decodes, prompt_tokens, seconds)

    def serve(self, prompts: Iterable[tuple[Sequence, int]]) -> None:
        """So many tokens of these prompts were computed: it is the turn of other callers."""
        for sequence, count in prompts:
            self._turns.serve(sequence.caller, count)


def _fill(prompts: Iterable[Sequence], room: int) -> list[tuple[Sequence, int]]:
    """As much of each as there is room for, in their order."""
    plan: list[tuple[Sequence, int]] = []
    for sequence in prompts:
        count = min(sequence.pending, room)
        if count <= 0:
            break
        plan.append((sequence, count))
        room -= count
    return plan
