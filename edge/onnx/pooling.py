"""From the vectors of tokens to the vector of a text.

As sentence-transformers' module `Pooling` has it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge.vectors import Floats

Lengths = npt.NDArray[np.int64]


def pool(hidden: Floats, lengths: Lengths, how: Literal["mean", "cls", "last"]) -> Floats:
    """hidden: [rows, tokens, width], padded behind each row's own `lengths` [rows], which are at
    least 1. Returns [rows, width]."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        last: Floats = hidden[np.arange(len(hidden)), lengths - 1]
        return last
    counted = np.arange(hidden.shape[1]) < lengths[:, None]
    weights = counted / lengths[:, None].astype(np.float32)
    # A matrix product for each row: the padding is never copied or masked in place.
    summed: Floats = np.matmul(weights[:, None, :].astype(np.float32), hidden)[:, 0]
    return summed
