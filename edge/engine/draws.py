"""Random choices from the logits, limited as the request says.

The limits are those of llama.cpp in the order temperature, top_k, top_p, min_p. Its own samplers go
over all candidates one by one, which with eight streams took an eighth of a step. A `Draws` belongs
to the sampler of one sequence; all that changes in it is the number of draws.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.engine.backend import Logits
from edge.types import Sampling

LEAST_TEMPERATURE = 1e-4
"""Below this all but the likeliest token is impossible in any case."""

BLOCK = 256
"""Tokens that are looked at together."""

Tokens = npt.NDArray[np.int64]


class Rows(Protocol):
    """Whoever has the logits."""

    def logits(self) -> Logits: ...


class Draws:
    """One number for each token, by the seed and the token's place alone: what is replayed after a
    worker died goes on with the numbers that would have come."""

    def __init__(self, rows: Rows, sampling: Sampling) -> None:
        self._rows = rows
        self._sampling = sampling
        self._drawn = 0

    def sample(self, row: int) -> int:
        """Choose a token from output row `row` of the last decode."""
        chance = uniform(self._sampling.seed or 0, self._drawn)
        self._drawn += 1
        return draw(self._rows.logits()[row], self._sampling, chance)

    def replay(self, token: int) -> None:
        """A token was chosen, whichever."""
        self._drawn += 1


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1) of 53 random bits, independent for each seed and place."""
    key = struct.pack("<QQ", seed & 0xFFFFFFFFFFFFFFFF, place)
    bits = hashlib.blake2b(key, digest_size=8).digest()
    return float((int.from_bytes(bits, "little") >> 11) * 2.0**-53)


def draw(logits: Logits, sampling: Sampling, chance: float) -> int:
    """A token with its probability. logits: shape (vocabulary,), at least one above minus infinity.

    chance: where in the distribution, from 0 to 1.
    """
    limited = 0 < sampling.top_k < logits.size or sampling.top_p < 1 or sampling.min_p > 0
    if not limited:
        return _place_in_blocks(_weights(logits, sampling.temperature), chance)
    tokens, weights, whole = _candidates(logits, sampling)
    if sampling.top_p < 1:
        # The fewest that reach the mass (Holtzman and others 2020).
        sums = np.cumsum(weights, dtype=np.float64)
        weights = weights[: np.searchsorted(sums, sampling.top_p * whole) + 1]
    return int(tokens[_place(weights[weights >= sampling.min_p], chance)])


def _candidates(logits: Logits, sampling: Sampling) -> tuple[Tokens, Logits, float]:
    """Tokens, likeliest first, that hold all that the limits leave; their weights; and the weight
    of all that `top_k` leaves."""
    if 0 < sampling.top_k < logits.size:
        tokens = likeliest(logits, sampling.top_k)
        weights = _weights(logits[tokens], sampling.temperature)
        return tokens, weights, float(weights.sum(dtype=np.float64))
    weights = _weights(logits, sampling.temperature)
    whole = float(weights.sum(dtype=np.float64))
    tokens = np.flatnonzero(weights)
    for least in (1e-2, 1e-4, 1e-7):  # few have to be sorted where the likeliest hold most
        some = np.flatnonzero(weights >= least)
        mass = float(weights[some].sum(dtype=np.float64))
        if mass >= sampling.top_p * whole or sampling.min_p >= least:
            tokens = some
            break
    tokens = tokens[np.argsort(-weights[tokens], kind="stable")]
    return tokens, weights[tokens], whole


def likeliest(logits: Logits, count: int) -> Tokens:
    """The so many tokens with the highest logits, those first, and of equal ones the first.

    The `count`-th highest maximum of a block is not above the `count`-th highest logit, so that few
    tokens beyond those that are wanted are ever sorted.
    """
    whole = logits.size - logits.size % BLOCK
    least = np.float32(-np.inf)
    if count < whole // BLOCK:
        maxima = logits[:whole].reshape(-1, BLOCK).max(axis=1)
        least = np.partition(maxima, -count)[-count]
    tokens = np.flatnonzero(logits >= least)
    return tokens[np.argsort(-logits[tokens], kind="stable")[:count]]


def _weights(logits: Logits, temperature: float) -> Logits:
    """What probabilities are proportional to; the likeliest has 1."""
    weights: Logits = logits - logits.max()
    with np.errstate(over="ignore", under="ignore"):
        weights /= np.float32(max(temperature, LEAST_TEMPERATURE))
        np.exp(weights, out=weights)
    return weights


def _place(weights: Logits, chance: float) -> int:
    """Where in the running sum `chance` of the whole falls; never on a weight of 0."""
    sums = np.cumsum(weights, dtype=np.float64)
    last = int(np.searchsorted(sums, sums[-1]))
    return min(int(np.searchsorted(sums, chance * sums[-1], side="right")), last)


def _place_in_blocks(weights: Logits, chance: float) -> int:
    """The same over a whole vocabulary: first in which block, then where in it."""
    whole = weights.size - weights.size % BLOCK
    masses = weights[:whole].reshape(-1, BLOCK).sum(axis=1, dtype=np.float64)
    masses = np.append(masses, weights[whole:].sum(dtype=np.float64))
    block = _place(masses, chance)
    before = float(masses[:block].sum())
    inside = (chance * float(masses.sum()) - before) / float(masses[block])
    begin = block * BLOCK
    return begin + _place(weights[begin : begin + BLOCK], min(max(inside, 0.0), 1.0))
