"""How many tokens are drafted for whom in a step: as many as are expected to pay.

Drafted tokens (`lookup.py` has them) are computed in the same step as the pending one, and kept as
far as they are what the sequence itself chooses: a draft changes how fast a text comes, and never
the text. On a CPU a further token costs half as much as a step of its own or more, so what it costs
is learned from the steps themselves. The `Drafter` is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.engine.lookup import EXPECTED
from edge.engine.sequence import Sequence

LONGEST = 15
"""Most that is drafted for a sequence in a step."""

TRIAL = 2
"""As long as nothing is known of what a drafted token costs."""

GROWTH = 2
"""Times as many in a step as ever were measured at most, because costs are not linear."""

STRETCH = 2.0
"""Most that drafts may lengthen a step that others are in."""

COST_MEMORY = 0.2
"""Weight of the newest step in running means of time."""

HICCUP = 1.5
"""More than this above what a step should take does not count: the machine was busy elsewhere."""

REFRESH_STEPS = 32
"""Steps with drafts in a row, after which one without is due, to measure it again."""

DOUBT = 0.99
"""What a refused draft makes of the known cost: one bad measurement must not last for ever."""


class DraftCost:
    """What drafted tokens were seen to cost, by how many sequences were in the step.

    The cost of a token is in units of what each sequence's own token costs in a step without
    drafts: 1 where a step takes time in proportion to its tokens, near 0 where they are free.
    """

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        self._each: dict[int, float] = {}
        self._most = TRIAL
        self._drafted_in_a_row = 0

    def observe(self, sequences: int, drafted: int, seconds: float) -> None:
        """A step of so many generating sequences, with so many drafted tokens, took that long."""
        if drafted == 0:
            known = self._plain.get(sequences, seconds)
            change = min(seconds, known * HICCUP) - known
            self._plain[sequences] = known + COST_MEMORY * change
            self._drafted_in_a_row = 0
            return
        self._drafted_in_a_row += 1
        self._most = max(self._most, drafted)
        plain = self._plain.get(sequences)
        if plain is None:
            return
        once = self._each.get(sequences)
        if once is not None:
            seconds = min(seconds, HICCUP * plain * (1 + once * drafted / sequences))
        each = max(seconds / plain - 1, 0) * sequences / drafted
        known = each if once is None else once
        self._each[sequences] = known + COST_MEMORY * (each - known)

    def room(self, sequences: int) -> int:
        """Tokens that may be drafted in a step, all sequences together."""
        if sequences not in self._plain or self._drafted_in_a_row >= REFRESH_STEPS:
            return 0
        each = self._each.get(sequences)
        if each is None:
            return TRIAL
        room = GROWTH * self._most
        if sequences == 1 or each == 0:
            return room
        return min(room, int((STRETCH - 1) * sequences / each))

    def best_length(self, sequences: int, chance: float, most: int) -> int:
        """How many tokens to draft for one of them, so that the step makes the most tokens for
        its time; 0 where drafts do not pay.

        With chance a for each token a draft of k adds a + a² + … + aᵏ tokens on average
        (Leviathan, Kalman and Matias 2023), as long as all before were right.
        """
        each = self._each.get(sequences, 0.0) / sequences
        best, rate = 0, float(sequences)
        made, right = float(sequences), 1.0
        for length in range(1, most + 1):
            right *= chance
            made += right
            if made / (1 + each * length) > rate:
                best, rate = length, made / (1 + each * length)
        return best

    def doubt(self, sequences: int) -> None:
        """A draft was at hand and not worth its cost, as far as that is known."""
        if sequences in self._each:
            self._each[sequences] *= DOUBT


class Drafter:
    """Decides what is drafted in a step."""

    def __init__(self) -> None:
        self.cost = DraftCost()

    def propose(self, generating: Iterable[Sequence], room: int) -> dict[str, list[int]]:
        """Drafts by the sequences' ids, for those where they are expected to pay.

        generating: all that take part in the step. room: tokens that it can have beside theirs.
        """
        everyone = list(generating)
        for sequence in everyone:
            sequence.lookup.follow()
        room = min(room, self.cost.room(len(everyone)))
        drafts: dict[str, list[int]] = {}
        for sequence in sorted(everyone, key=lambda one: -one.lookup.chance):
            if room <= 0:
                break
            if draft := self._draft(sequence, len(everyone), room):
                drafts[sequence.id] = draft
                room -= len(draft)
        return drafts

    def _draft(self, sequence: Sequence, sequences: int, room: int) -> list[int]:
        # One token is chosen in any case.
        most = min(LONGEST, room, sequence.limit - sequence.generated - 1)
        draft = sequence.lookup.draft(most)
        if not draft:
            return []
        length = self.cost.best_length(sequences, sequence.lookup.chance, len(draft))
        if length == 0 and sequence.lookup.chance > EXPECTED:
            self.cost.doubt(sequences)
        ends = map(sequence.vocabulary.is_end, draft[:length])
        # Nothing comes behind the end of an answer.
        return draft[: next((at + 1 for at, end in enumerate(ends) if end), length)]

    def observe(self, sequences: int, drafted: int, seconds: float) -> None:
        """Learn from a step that had nothing but these: a token each, and what was drafted."""
        self.cost.observe(sequences, drafted, seconds)
