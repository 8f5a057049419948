"""Draws: every token as often as the limits and the temperature say, by an obvious way to do it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from edge.engine.draws import BLOCK, Draws, draw, likeliest, uniform
from edge.types import Sampling

DRAWS = 1500
"""For each of 135 distributions: a share that is off by a sixth of a percent is found."""

SIZES = (5, BLOCK, 3 * BLOCK + 17)
LIMITS = [
    {},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 40},
    {"top_k": 10**6},
    {"top_p": 0.0},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.9999},
    {"min_p": 0.2},
    {"min_p": 1e-6},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8},
    {"top_p": 0.95, "min_p": 0.01},
    {"top_k": 50, "top_p": 0.95, "min_p": 0.05},
]


def wanted(logits: npt.NDArray[np.float32], sampling: Sampling) -> dict[int, float]:
    """Probabilities, one candidate after the other."""
    order = sorted(range(logits.size), key=lambda token: (-logits[token], token))
    if sampling.top_k:
        order = order[: sampling.top_k]
    highest = float(logits[order[0]])
    weights = [math.exp((float(logits[t]) - highest) / sampling.temperature) for t in order]
    mass, kept = 0.0, []
    for token, weight in zip(order, weights, strict=True):
        if weight < sampling.min_p:
            break
        kept.append((token, weight))
        mass += weight
        if sampling.top_p < 1 and mass >= sampling.top_p * sum(weights):
            break
    return {token: weight / mass for token, weight in kept if weight > 0}


def shares(logits: npt.NDArray[np.float32], sampling: Sampling, draws: int) -> dict[int, float]:
    """What comes of numbers that are spread evenly: as exact as their distance."""
    drawn = Counter(draw(logits, sampling, (n + 0.5) / draws) for n in range(draws))
    return {token: count / draws for token, count in drawn.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_every_token_as_often_as_it_should(
    size: int, limits: dict[str, float], temperature: float
) -> None:
    """Also where some are impossible, as with a grammar, and some equally likely."""
    source = np.random.default_rng(size)
    logits = (source.normal(size=size) * 3).astype(np.float32)
    logits[source.random(size) < 0.3] = -np.inf
    logits[1:4] = 2.5
    sampling = Sampling(temperature=temperature, **limits)  # type: ignore[arg-type]
    found, right = shares(logits, sampling, DRAWS), wanted(logits, sampling)
    assert set(found) <= set(right)
    for token, share in right.items():
        assert found.get(token, 0.0) == pytest.approx(share, abs=2.5 / DRAWS)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0 - 2**-53, 1.0])
def test_impossible_tokens_never_come(limits: dict[str, float], chance: float) -> None:
    """Neither at the ends of the distribution nor where only one token is left."""
    logits = np.full(2 * BLOCK + 9, -np.inf, np.float32)
    logits[BLOCK + 3] = -7
    sampling = Sampling(**limits)  # type: ignore[arg-type]
    assert draw(logits, sampling, chance) == BLOCK + 3
    logits[[5, 2 * BLOCK + 4]] = -7
    assert draw(logits, sampling, chance) in (5, BLOCK + 3, 2 * BLOCK + 4)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_extreme_logits(limits: dict[str, float]) -> None:
    """Neither overflow nor a warning; at a temperature near 0 it is the likeliest."""
    logits = np.full(600, -1e30, np.float32)
    logits[77] = 1e30
    for temperature in (1e-9, 1.0, 2.0):
        sampling = Sampling(temperature=temperature, **limits)  # type: ignore[arg-type]
        assert draw(logits, sampling, 0.999) == 77


@pytest.mark.parametrize("count", [1, 2, 40, 191, 192, 500])
def test_likeliest_are_those_of_a_whole_sort(count: int) -> None:
    """Whichever block they are in, and equal ones in their order."""
    source = np.random.default_rng(count)
    for size in (500, 192 * BLOCK, 192 * BLOCK + 11):
        logits = source.integers(0, 2000, size).astype(np.float32)
        right = np.argsort(-logits, kind="stable")[:count]
        assert likeliest(logits, count).tolist() == right.tolist()


def test_numbers_are_uniform_and_belong_to_their_place() -> None:
    """No two places or seeds share one; their mean and spread are those of chance."""
    numbers = np.array([[uniform(seed, place) for place in range(300)] for seed in range(100)])
    assert len(np.unique(numbers)) == numbers.size
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.4
    assert uniform(-1, 3) == uniform(-1, 3)


class Fixed:
    """The same logits whatever was said."""

    def logits(self) -> npt.NDArray[np.float32]:
        return np.zeros((1, 1000), np.float32)


def test_replay_goes_on_with_the_numbers_that_would_have_come() -> None:
    """Whatever was replayed, as many numbers are gone."""
    whole = Draws(Fixed(), Sampling(seed=8))
    tokens = [whole.sample(0) for _ in range(20)]
    resumed = Draws(Fixed(), Sampling(seed=8))
    for token in tokens[:7]:
        resumed.replay(token)
    assert [resumed.sample(0) for _ in range(13)] == tokens[7:]
    assert len(set(tokens)) > 10
