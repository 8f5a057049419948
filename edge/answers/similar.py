"""Answers to questions that were asked in other words: found by the vectors of their texts.

Off unless the configuration names an embedding model. Whatever goes wrong with it, the answer is
computed. Owned by the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from edge.answers.likeness import Likeness
from edge.store.answers import Answers

Embed = Callable[[str], Awaitable[bytes]]
"""The vector of a text, float32; raises an `EdgeError`."""

MOST = 1024
"""Answers of one group that a text is compared with: the latest."""


class SimilarAnswers:
    """embedder: what the vectors are made by; others cannot be compared with them.

    threshold: the least cosine of the angle between two vectors.
    """

    def __init__(self, answers: Answers, embedder: str, embed: Embed, threshold: float) -> None:
        self.embedder = embedder
        self._answers = answers
        self._embed = embed
        self._threshold = threshold

    async def vector(self, likeness: Likeness) -> bytes:
        """Of length 1. Raises an `EdgeError`."""
        vector = np.frombuffer(await self._embed(likeness.text), "<f4")
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype("<f4").tobytes()

    async def find(self, likeness: Likeness, vector: bytes, not_before: float) -> bytes | None:
        """The key of the answer to the nearest text, if it is near enough."""
        kept = await self._answers.like(likeness.group, not_before, MOST)
        kept = [(key, other) for key, other in kept if len(other) == len(vector)]
        if not kept:
            return None
        others = np.frombuffer(b"".join(other for _, other in kept), "<f4")
        nearness = others.reshape(len(kept), -1) @ np.frombuffer(vector, "<f4")
        best = int(nearness.argmax())
        return kept[best][0] if nearness[best] >= self._threshold else None
