"""Token ids as the input tensors of a transformer, padded no further than they need.

Rows are sorted by length before they are cut into pieces, so that the rows of a batch are about
equally long: what is padding is computed like everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import BadModelFile
from edge.onnx.task import Arrays, Piece
from edge.onnx.tokens import Row
from edge.tensors import TensorFacts

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
DTYPES: dict[str, Any] = {"INT64": np.int64, "INT32": np.int32}

LIKE = 1.25
"""How much longer than its shortest row the longest row of a piece may be."""


class TextInputs:
    """What one model wants to be given. Raises `BadModelFile` for inputs that a text has not."""

    def __init__(self, inputs: Sequence[TensorFacts], padding: int) -> None:
        """padding: the token that stands behind the end of a shorter row."""
        self._dtypes: dict[str, Any] = {}
        self.fixed = 0
        """Tokens of every row, where the model leaves no choice; else 0."""
        for one in inputs:
            if one.name not in (IDS, MASK, TYPES) or one.datatype not in DTYPES:
                raise BadModelFile(
                    f"the model has an input {one.name} of {one.datatype}, and a text has "
                    f"{IDS}, {MASK} and {TYPES} of INT64 or INT32",
                    hint="serve it without a task, by its tensors",
                )
            self._dtypes[one.name] = DTYPES[one.datatype]
            if len(one.shape) == 2 and one.shape[1] > 0:
                self.fixed = one.shape[1]
        for name in (IDS, MASK):
            if name not in self._dtypes:
                raise BadModelFile(f"the model has no input {name}")
        self._padding = padding

    def pieces(self, rows: Sequence[Row], most: int) -> tuple[list[Piece], list[int]]:
        """The rows in pieces of at most `most`, and which row each place is, piece by piece."""
        order = sorted(range(len(rows)), key=lambda at: len(rows[at].ids))
        cuts = [0]
        for at, row in enumerate(order):
            shortest = len(rows[order[cuts[-1]]].ids)
            if at - cuts[-1] >= max(1, most) or len(rows[row].ids) > LIKE * shortest:
                cuts.append(at)
        groups = [order[a:b] for a, b in zip(cuts, [*cuts[1:], len(order)], strict=True)]
        return [self._piece([rows[at] for at in group]) for group in groups], order

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        """All rows, padded behind to the longest."""
        if len(pieces) == 1:
            return pieces[0].inputs
        total = sum(piece.rows for piece in pieces)
        longest = max(piece.inputs[IDS].shape[1] for piece in pieces)
        joined = self._empty(total, longest)
        at = 0
        for piece in pieces:
            for name, array in piece.inputs.items():
                joined[name][at : at + piece.rows, : array.shape[1]] = array
            at += piece.rows
        return joined

    def _piece(self, rows: Sequence[Row]) -> Piece:
        """Of rows in ascending order of length."""
        longest = len(rows[-1].ids)
        inputs = self._empty(len(rows), self.fixed or longest)
        for at, row in enumerate(rows):
            length = len(row.ids)
            given: dict[str, Any] = {IDS: row.ids, MASK: 1, TYPES: row.types}
            for name, array in inputs.items():
                array[at, :length] = given[name]
        return Piece(inputs, len(rows), length=longest)

    def _empty(self, rows: int, length: int) -> dict[str, npt.NDArray[Any]]:
        return {
            name: np.full((rows, length), self._padding if name == IDS else 0, dtype)
            for name, dtype in self._dtypes.items()
        }
