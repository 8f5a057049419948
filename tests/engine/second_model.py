"""Second models over the fake backend: right, wrong or now and then right; and a careless user."""

from __future__ import annotations

import random
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from fake import FakeBackend, FakeModel

from edge.engine.backend import Chunk, Logits
from edge.engine.draft_model import DraftModel
from edge.engine.drafts import Drafter
from edge.engine.sequence import Sequence as Generating


class Imitator(FakeModel):
    """Says what another model does, at so many of 100 places. It depends on the text which."""

    def __init__(self, model: FakeModel, right: int) -> None:
        super().__init__()
        self.model = model
        self.right = right

    def candidates(self, held: Sequence[int]) -> list[int]:
        liked = self.model.candidates(held)
        if zlib.crc32(array("I", held).tobytes(), 7) % 100 < self.right:
            return liked
        return [(liked[0] + 1 + place) % self.vocabulary.size for place in range(3)]


class SecondBackend(FakeBackend):
    """Each of its steps takes what `seconds` says of its number of tokens, by its own clock."""

    def __init__(
        self, model: FakeModel, seconds: Callable[[int], float] = lambda _: 0.0, **settings: int
    ) -> None:
        super().__init__(model=model, **settings)
        self.seconds = seconds
        self.now = 0.0

    def decode(self, chunks: Sequence[Chunk]) -> None:
        super().decode(chunks)
        self.now += self.seconds(sum(len(chunk.tokens) for chunk in chunks))

    def clock(self) -> float:
        return self.now


class Doubter(SecondBackend):
    """To it all tokens are as likely."""

    def _new_logits(self) -> Logits:
        return super()._new_logits() * np.float32(0.01)


def second(backend: SecondBackend) -> DraftModel:
    return DraftModel(backend, backend.vocabulary.size, backend.clock)


class Careless(Drafter):
    """Lets a second model follow and write at random, whatever that costs."""

    def __init__(self, model: DraftModel, backend: FakeBackend, pick: random.Random) -> None:
        super().__init__()
        self.second = model
        self.backend = backend
        self.pick = pick

    def propose(self, generating: Iterable[Generating], room: int) -> dict[str, list[int]]:
        wanted: list[tuple[Generating, int]] = []
        for sequence in generating:
            if self.pick.random() < 0.3:
                self.second.meet(sequence)
            behind = self.second.behind(sequence)
            if behind is None:
                continue
            if self.pick.random() < 0.3:
                self.second.catch_up(sequence, self.pick.randint(1, behind))
            most = min(room, sequence.limit - sequence.generated - 1)
            if most > 0 and self.pick.random() < 0.6:
                wanted.append((sequence, self.pick.randint(1, most)))
                room -= wanted[-1][1]
        drafts = self.second.write(wanted)
        assert self.second._held == self.backend.held, "it does not know what its slots hold"
        return {name: draft for name, draft in drafts.items() if draft}
