"""Biases and penalties on tokens, written into the logits of the few tokens that they concern.

llama.cpp's own samplers for them go over the whole vocabulary; the arithmetic here is theirs, in
the same order and the same single precision. Owned by one sequence's sampler.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from edge.engine.backend import Logits
from edge.types import Sampling


class Penalties:
    """Remembers which tokens were generated, and how often."""

    def __init__(self, sampling: Sampling) -> None:
        self._bias = dict(sampling.logit_bias)
        self._repeat = np.float32(sampling.repeat_penalty)
        self._frequency = np.float32(sampling.frequency_penalty)
        self._presence = np.float32(sampling.presence_penalty)
        self._penalizes = (
            sampling.repeat_penalty != 1
            or sampling.frequency_penalty != 0
            or sampling.presence_penalty != 0
        )
        self._counts: Counter[int] = Counter()

    @property
    def idle(self) -> bool:
        """Nothing will ever be changed."""
        return not (self._bias or self._penalizes)

    def count(self, token: int) -> None:
        """It was generated."""
        if self._penalizes:
            self._counts[token] += 1

    def apply(self, logits: Logits) -> None:
        """Change the logits in place, shape (vocabulary,).

        Repetition divides what is above zero and multiplies the rest (Keskar and others 2019, as
        llama.cpp mends it); frequency and presence are those of OpenAI's API.
        """
        if self._bias:
            tokens = np.fromiter(self._bias.keys(), np.int64, len(self._bias))
            logits[tokens] += np.fromiter(self._bias.values(), np.float32, len(self._bias))
        if self._counts:
            tokens = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            seen = logits[tokens]
            seen = np.where(seen <= 0, seen * self._repeat, seen / self._repeat)
            logits[tokens] = seen - (counts * self._frequency + self._presence)
