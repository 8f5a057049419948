"""The vectors by which the answer cache finds questions that were asked in other words."""

from __future__ import annotations

import time
from itertools import count

from edge.errors import InvalidRequest
from edge.inference.models import OnnxModels
from edge.tensors import Inference, TextWork, Vectors

SECONDS = 1.0
"""Longest time for a vector, which saves an answer: a model that has to be loaded first is there
for the next question."""


class Embedder:
    """One embedding model, asked for one text at a time; texts that come together are computed
    together by its batches."""

    def __init__(self, models: OnnxModels, model: str) -> None:
        self._models = models
        self._model = model
        self._numbers = count()

    async def __call__(self, text: str) -> bytes:
        """float32, little-endian. Raises an `EdgeError`."""
        inference = Inference(
            id=f"cache-{next(self._numbers)}",
            model=self._model,
            work=TextWork([text]),
            deadline=time.monotonic() + SECONDS,
        )
        result = (await self._models.infer(inference)).result
        if not isinstance(result, Vectors):
            raise InvalidRequest(f"`{self._model}` is no embedding model")
        return result.data
