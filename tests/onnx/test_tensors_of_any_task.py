"""A model that is for texts is asked with tensors meanwhile; the two never meet in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge.errors import InvalidRequest
from edge.onnx.any_task import AnyTask
from edge.onnx.batcher import Batcher, Request
from edge.onnx.task import Arrays, Model, Piece, Prepared
from edge.onnx.tensor_task import TensorTask
from edge.tensors import Scores, Tensor, TensorFacts, TensorResult, TensorWork, TextWork, Work

X = TensorFacts("x", "FP32", [-1, 2])


class Lengths:
    """Of texts, and how many there are in the batch; joined in another way than tensors are."""

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        assert isinstance(work, TextWork)
        return Prepared([Piece({"x": np.array([[len(one), 0]], "f4")}, 1) for one in work.texts])

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        return {"x": np.concatenate([[[piece.inputs["x"][0, 0], len(pieces)]] for piece in pieces])}

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> Scores:
        return Scores([float(one["x"][0, 0]) for one in outputs], int(outputs[0]["x"][0, 1]))


@pytest.fixture
def task() -> AnyTask:
    return AnyTask(Lengths(), TensorTask(Model("m", Path(), [X], [X], {}, True)))


def test_both_kinds_of_work_side_by_side(task: AnyTask) -> None:
    """Each is prepared, joined and finished by its own task."""
    data = np.array([[5, 6], [7, 8]], "<f4")
    asked: dict[str, Work] = {
        "tensors": TensorWork([Tensor("x", "FP32", [2, 2], data.tobytes())]),
        "texts": TextWork(["one", "seven"]),
    }
    prepared = {name: task.prepare(work, 8) for name, work in asked.items()}
    batcher = Batcher(8, 0.0)
    for name, one in prepared.items():
        batcher.add(Request(name, "normal", "", 0.0, None, one.pieces))
    outputs: dict[str, list[Arrays]] = {name: [] for name in asked}
    while len(batcher):
        parts = batcher.take(0.0)
        assert len({part.request.id for part in parts}) == 1
        joined, first = task.join([part.piece for part in parts]), 0
        for part in parts:
            own = {"x": joined["x"][first : first + part.piece.rows]}
            outputs[part.request.id].append(own)
            first += part.piece.rows
    tensors = task.finish(prepared["tensors"], outputs["tensors"])
    assert tensors == TensorResult([Tensor("x", "FP32", [2, 2], data.tobytes())])
    assert task.finish(prepared["texts"], outputs["texts"]) == Scores([3.0, 5.0], 2)


def test_refusals_are_those_of_the_task(task: AnyTask) -> None:
    with pytest.raises(InvalidRequest, match="no input `y`"):
        task.prepare(TensorWork([Tensor("y", "FP32", [1, 2], bytes(8))]), 8)
