"""Vectors of texts, whoever computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SHORTEST = 1e-12
"""Below it a vector has no direction, and is left as it is."""


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """[rows, width], each of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(lengths, SHORTEST)).astype(np.float32)
    return scaled
