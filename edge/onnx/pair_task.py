"""Task `rerank`: how well documents answer a query, by a model that reads both at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge.errors import BadModelFile, InternalError, InvalidRequest
from edge.onnx.task import Arrays, Model, Piece, Prepared
from edge.onnx.text_inputs import TextInputs
from edge.onnx.tokens import Tokens
from edge.repository.folder import inside
from edge.repository.text import TextSettings
from edge.tensors import PairWork, Scores, TensorFacts, Work


class Asked(NamedTuple):
    """What is kept of a request. order: which document each row is. tokens: of all rows."""

    order: list[int]
    tokens: int


class PairTask:
    """Raises `BadModelFile` where tokenizer, inputs or outputs are not those of such a model."""

    def __init__(self, settings: TextSettings, model: Model) -> None:
        self._settings = settings
        tokenizer = inside(model.folder, settings.tokenizer, "text.tokenizer")
        self._tokens = Tokens(tokenizer, settings)
        self._inputs = TextInputs(model.inputs, self._tokens.padding)
        self._output = _output(model.outputs, settings.output)

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        if not isinstance(work, PairWork):
            raise InvalidRequest("this model takes a query with documents", param="model")
        rows = self._tokens.of_pairs(work.query, work.documents)
        pieces, order = self._inputs.pieces(rows, max_batch)
        return Prepared(pieces, Asked(order, sum(len(row.ids) for row in rows)))

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        return self._inputs.join(pieces)

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> Scores:
        asked: Asked = prepared.context
        numbers = np.concatenate([output[self._output] for output in outputs])
        numbers = numbers.reshape(len(asked.order)).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise InternalError("the model computes no numbers for these documents")
        if self._settings.activation == "sigmoid":
            # By the hyperbolic tangent, which overflows nowhere.
            numbers = 0.5 * (1.0 + np.tanh(0.5 * numbers))
        scores = np.empty_like(numbers)
        scores[asked.order] = numbers
        return Scores(scores.tolist(), asked.tokens)


def _output(outputs: Sequence[TensorFacts], named: str | None) -> str:
    """The one that has a number for each row."""
    for one in outputs:
        one_number = one.shape[1:] in ([], [1])
        if one.datatype in ("FP32", "FP16") and one_number and named in (None, one.name):
            return one.name
    there = ", ".join(f"{one.name} {one.shape}" for one in outputs)
    raise BadModelFile(
        f"no output of the model is one score for each document: {there}",
        hint="a cross-encoder for ranking has one label; name its output in model.yaml as "
        "text.output",
    )
