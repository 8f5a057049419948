"""The greedy fast path and log probabilities, on logits made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake import FakeBackend, FakeVocabulary

from edge.engine.sampling import Sampler, log_probabilities
from edge.types import Sampling


def test_temperature_zero_needs_no_chain() -> None:
    """Limits on the candidates do not change which is the likeliest."""
    backend = FakeBackend()
    Sampler(backend, Sampling(temperature=0, top_k=3, top_p=0.5, min_p=0.2, seed=4), None)
    assert backend.chains == []


def test_log_probabilities_are_a_log_softmax() -> None:
    """Over the whole vocabulary they are those of the logits, and sum up to one."""
    vocabulary = FakeVocabulary()
    logits = np.random.default_rng(1).normal(size=vocabulary.size).astype(np.float32) * 5
    entry = log_probabilities(logits, 7, 20, vocabulary)
    naive = [math.log(math.exp(x) / sum(math.exp(y) for y in logits)) for x in logits]
    assert entry.chosen.logprob == pytest.approx(naive[7])
    assert [a.token for a in entry.top] == [int(t) for t in np.argsort(-logits)[:20]]
    assert [a.logprob for a in entry.top] == pytest.approx(sorted(naive, reverse=True)[:20])
    everything = log_probabilities(logits, 0, vocabulary.size, vocabulary).top
    assert sum(math.exp(a.logprob) for a in everything) == pytest.approx(1)


def test_huge_logits_do_not_overflow() -> None:
    """Only differences count."""
    vocabulary = FakeVocabulary()
    logits = np.full(vocabulary.size, -1e30, np.float32)
    logits[3] = logits[4] = 1e30
    entry = log_probabilities(logits, 3, 2, vocabulary)
    assert entry.chosen.logprob == pytest.approx(math.log(0.5))


def test_none_asked_for_gives_the_chosen_only() -> None:
    """Zero alternatives is an answer too."""
    vocabulary = FakeVocabulary()
    logits = np.zeros(vocabulary.size, np.float32)
    entry = log_probabilities(logits, 97, 0, vocabulary)
    assert (entry.top, entry.chosen.raw) == ([], b"a")
