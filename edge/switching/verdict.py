"""Whether a new version may take over a name, from what it and the old one showed. Pure.

Measured with SmolLM2-135M, in nats per byte: as published (Q4_1) 0.54, Q8_0 0.54, Q3_K 0.54, one
of 30 layers all zeros 0.57, Q4_0 0.58, Q2_K 0.60; 64 kB of zeros in every 4 MB 2.4, random weights
2.8, blocks of weights in another order 6.8. Models are near each other; noise is not. One flipped
bit in a million makes numbers that are none; one in 100,000 does not load.
"""

from __future__ import annotations

from edge.switching.trial import QUESTIONS, Figures

MOST_SURPRISED = 2.0
"""Times as many nats per byte as the old version."""

MOST_NATS = 2.0
"""Nats per byte where there is no old version to compare with."""


def faults(new: Figures, old: Figures | None, slowest: float) -> list[str]:
    """What speaks against the new version, in words; nothing for one that is as it should be.

    slowest: part of the old version's speed that it has to have.
    """
    found = []
    known = None if old is None else old.nats_per_byte
    limit = MOST_NATS if known is None else MOST_SURPRISED * known
    if new.nats_per_byte is None or new.nats_per_byte > limit:
        found.append(
            f"plain text surprises it like noise: {_nats(new.nats_per_byte)} per byte"
            + ("" if known is None else f", the old version {_nats(known)}")
        )
    needed = len(QUESTIONS) / 2 if old is None else min(old.sane, len(QUESTIONS) / 2)
    if new.sane < needed:
        found.append(
            f"{len(QUESTIONS) - new.sane} of {len(QUESTIONS)} answers are empty, broken or one "
            f"token again and again: {new.answers[0][:60]!r}"
        )
    if old is not None and new.tokens_per_second < slowest * old.tokens_per_second:
        found.append(
            f"it is too slow: {new.tokens_per_second:.1f} tokens per second, the old version "
            f"{old.tokens_per_second:.1f}"
        )
    return found


def _nats(value: float | None) -> str:
    return "not a number of nats" if value is None else f"{value:.2f} nats"
