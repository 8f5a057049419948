"""Task `embed`: texts to vectors, by a transformer with its tokenizer and its pooling.

texts ─► tokens ─► rows of like length ─► model ─► vectors of tokens ─► pooled, normalised
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge.errors import BadModelFile, InternalError, InvalidRequest
from edge.onnx.pooling import pool
from edge.onnx.task import Arrays, Model, Piece, Prepared
from edge.onnx.text_inputs import MASK, TextInputs
from edge.onnx.tokens import Tokens
from edge.repository.folder import inside
from edge.repository.text import TextSettings
from edge.tensors import TensorFacts, TextWork, Vectors, Work
from edge.vectors import unit

VECTORS = "vectors"


class Asked(NamedTuple):
    """What is kept of a request. order: which text each row is. tokens: of all rows."""

    order: list[int]
    dimensions: int | None
    tokens: int


class TextTask:
    """Raises `BadModelFile` where tokenizer, inputs or outputs are not those of such a model."""

    def __init__(self, settings: TextSettings, model: Model) -> None:
        self._settings = settings
        tokenizer = inside(model.folder, settings.tokenizer, "text.tokenizer")
        self._tokens = Tokens(tokenizer, settings)
        self._inputs = TextInputs(model.inputs, self._tokens.padding)
        self._output = _output(model.outputs, settings.output)
        self._width = self._output.shape[-1]

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        if not isinstance(work, TextWork):
            raise InvalidRequest("this model takes texts to embed", param="model")
        wanted = work.dimensions
        if wanted is not None and 0 < self._width < wanted:
            raise InvalidRequest(
                f"dimensions is {wanted}, and this model's vectors have {self._width}",
                param="dimensions",
            )
        rows = self._tokens.of(work)
        pieces, order = self._inputs.pieces(rows, max_batch)
        return Prepared(pieces, Asked(order, wanted, sum(len(row.ids) for row in rows)))

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        return self._inputs.join(pieces)

    def condense(self, pieces: Sequence[Piece], inputs: Arrays, outputs: Arrays) -> Arrays:
        """The vectors of texts, in place of those of all their tokens."""
        found = outputs[self._output.name]
        if found.ndim == 3:
            found = pool(found, inputs[MASK].sum(axis=1), self._settings.pooling)
        return {VECTORS: found}

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> Vectors:
        asked: Asked = prepared.context
        found = np.concatenate([output[VECTORS] for output in outputs])[:, : asked.dimensions]
        vectors = np.empty(found.shape, "<f4")
        vectors[asked.order] = unit(found) if self._settings.normalize else found
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if broken.size:
            raise InternalError(f"the model computes no numbers for input[{broken[0]}]")
        return Vectors(int(found.shape[1]), vectors.tobytes(), asked.tokens)


def _output(outputs: Sequence[TensorFacts], named: str | None) -> TensorFacts:
    """The vectors of tokens, else those of texts, which some models make themselves."""
    floats = [one for one in outputs if one.datatype in ("FP32", "FP16")]
    for rank in (3, 2):
        for one in floats:
            if len(one.shape) == rank and named in (None, one.name):
                return one
    there = ", ".join(f"{one.name} {one.shape}" for one in outputs)
    raise BadModelFile(
        f"no output of the model has vectors of tokens or of texts: {there}",
        hint="name one in model.yaml as text.output",
    )
