"""How many tokens are drafted for whom in a step: as many as are expected to pay.

Drafted tokens (from the text itself, `lookup.py`, or by a second model, `model_drafts.py`) are
computed in the same step as the pending one, and kept as far as they are what the sequence itself
chooses: a draft changes how fast a text comes, and never the text. The `Drafter` is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.engine.draft_cost import LONGEST, TRIAL, Choice, DraftCost, Offer
from edge.engine.draft_model import DraftModel
from edge.engine.model_drafts import ModelDrafts
from edge.engine.sequence import Sequence


class Drafter:
    """Decides what is drafted in a step."""

    def __init__(self, model: DraftModel | None = None) -> None:
        """model: drafts where the text itself has nothing, or nothing as good."""
        self.cost = DraftCost()
        self.model = None if model is None else ModelDrafts(model, self.cost)

    def propose(self, generating: Iterable[Sequence], room: int) -> dict[str, list[int]]:
        """Drafts by the sequences' ids, for those where they are expected to pay.

        generating: all that take part in the step. room: tokens that it can have beside theirs.
        """
        everyone = list(generating)
        for sequence in everyone:
            sequence.lookup.follow()
        if self.model is not None:
            self.model.follow(everyone)
        room = min(room, self.cost.room(len(everyone)))
        if room <= 0:
            return {}
        found = {
            sequence.id: (Offer(sequence.lookup.chance, len(draft), id=sequence.id), draft)
            for sequence in everyone
            if (draft := _copied(sequence, room))
        }
        offers = _best_first(offer for offer, _ in found.values())
        choice = self.cost.best(len(everyone), offers, room)
        if self.model is not None:
            # What was written has had its price: from here on it is like what was copied.
            written = self.model.write(everyone, offers, choice.rate, room)
            found.update(written)
            offers = _best_first(offer for offer, _ in found.values())
            choice = self.cost.best(len(everyone), offers, room)
            if written and self.model.trying and not choice.length:
                offers = [offer for offer, _ in written.values()]
                choice = Choice(min(TRIAL, offers[0].most), 1, 0)
        if found and not choice.length:
            self.cost.doubt()
        return {offer.id: found[offer.id][1][: choice.length] for offer in choice.of(offers)}

    def observe(self, sequences: int, drafted: int, seconds: float) -> None:
        """Learn from a step that had nothing but these: a token each, and what was drafted."""
        self.cost.observe(sequences, drafted, seconds)


def _best_first(offers: Iterable[Offer]) -> list[Offer]:
    return sorted(offers, key=lambda offer: -offer.chance)


def _copied(sequence: Sequence, room: int) -> list[int]:
    # One token is chosen in any case.
    most = min(LONGEST, room, sequence.limit - sequence.generated - 1)
    draft = sequence.lookup.draft(most)
    # Nothing comes behind the end of an answer.
    ends = map(sequence.vocabulary.is_end, draft)
    return draft[: next((at + 1 for at, end in enumerate(ends) if end), len(draft))]
