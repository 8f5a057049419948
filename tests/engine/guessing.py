"""A drafter that guesses ahead at random, right often enough for long drafts to be kept."""

from __future__ import annotations

import random
from collections.abc import Iterable

from fake import FakeModel

from edge.engine.drafts import Drafter
from edge.engine.sequence import Sequence


class Guesser(Drafter):
    """Knows what the model likes, and errs now and then. It asks for no more than there is room."""

    def __init__(self, model: FakeModel, pick: random.Random, right: float = 0.8) -> None:
        super().__init__()
        self.model = model
        self.pick = pick
        self.right = right

    def propose(self, generating: Iterable[Sequence], room: int) -> dict[str, list[int]]:
        drafts: dict[str, list[int]] = {}
        for sequence in generating:
            most = min(room, sequence.limit - sequence.generated - 1)
            if most > 0 and self.pick.random() < 0.7:
                draft = self._guess(sequence, self.pick.randint(1, most))
                drafts[sequence.id] = draft
                room -= len(draft)
        return drafts

    def _guess(self, sequence: Sequence, length: int) -> list[int]:
        draft: list[int] = []
        for _ in range(length):
            liked = self.model.candidates([*sequence.tokens, *draft])
            wild = self.pick.randrange(self.model.vocabulary.size)
            likely = liked[0] if sequence.generation.sampling.temperature == 0 else None
            right = self.pick.choice(liked) if likely is None else likely
            draft.append(right if self.pick.random() < self.right else wild)
        return draft
