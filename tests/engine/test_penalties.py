"""Biases and penalties: the arithmetic of llama.cpp's samplers, on the few tokens concerned."""

from __future__ import annotations

import ctypes
import random

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from edge.engine.backend import Logits
from edge.engine.penalties import Penalties
from edge.types import Sampling

VOCABULARY = 500


def by_llama(sampling: Sampling, logits: Logits, generated: list[int]) -> Logits:
    """What llama.cpp's own samplers make of the logits."""
    values = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    bias = (lib.llama_logit_bias * max(len(sampling.logit_bias), 1))()
    for at, (token, value) in enumerate(sampling.logit_bias.items()):
        bias[at] = lib.llama_logit_bias(token, value)
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    count = len(sampling.logit_bias)
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_logit_bias(VOCABULARY, count, bias))
    penalties = lib.llama_sampler_init_penalties(VOCABULARY, 1000, *values)
    lib.llama_sampler_chain_add(chain, penalties)
    for token in generated:
        lib.llama_sampler_accept(chain, token)
    data = (lib.llama_token_data * VOCABULARY)()
    for token, logit in enumerate(logits):
        data[token] = lib.llama_token_data(token, float(logit), 0.0)
    array = lib.llama_token_data_array(data, VOCABULARY, -1, False)
    lib.llama_sampler_apply(chain, ctypes.byref(array))
    lib.llama_sampler_free(chain)
    found = np.empty(VOCABULARY, np.float32)
    for at in range(VOCABULARY):
        found[data[at].id] = data[at].logit
    return found


@pytest.mark.parametrize("seed", range(30))
def test_the_same_as_llama(seed: int) -> None:
    """To the last bit or two, whatever is combined."""
    chance = random.Random(seed)
    sampling = Sampling(
        repeat_penalty=chance.choice([1.0, 1.1, 0.7]),
        frequency_penalty=chance.choice([0.0, 0.5, -1.3]),
        presence_penalty=chance.choice([0.0, 0.9, -0.2]),
        logit_bias={chance.randrange(VOCABULARY): chance.uniform(-100, 100) for _ in range(5)},
    )
    generated = [chance.randrange(VOCABULARY) for _ in range(chance.choice([0, 3, 300]))]
    logits = np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32) * 9
    penalties = Penalties(sampling)
    for token in generated:
        penalties.count(token)
    wanted = by_llama(sampling, logits, generated)
    penalties.apply(logits)
    np.testing.assert_array_almost_equal_nulp(logits, wanted, 4)


def test_nothing_asked_for_changes_nothing() -> None:
    """And says so."""
    penalties = Penalties(Sampling())
    penalties.count(3)
    logits = np.ones(8, np.float32)
    penalties.apply(logits)
    assert penalties.idle
    assert (logits == 1).all()
