"""A model with a task of its own takes tensors too, as every model does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

from edge.onnx.task import Arrays, Condensing, Piece, Prepared, Task
from edge.tensors import Result, TensorWork, Work


class _Key(NamedTuple):
    """Pieces of the two tasks are never computed together. own: that of the piece."""

    task: Task
    own: Hashable


class AnyTask:
    """Has each request done by the task that is for its kind of work."""

    def __init__(self, own: Task, tensors: Task) -> None:
        self._own = own
        self._tensors = tensors

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        task = self._tensors if isinstance(work, TensorWork) else self._own
        prepared = task.prepare(work, max_batch)
        pieces = [replace(piece, key=_Key(task, piece.key)) for piece in prepared.pieces]
        return Prepared(pieces, (task, prepared))

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        own, task = _own(pieces)
        return task.join(own)

    def condense(self, pieces: Sequence[Piece], inputs: Arrays, outputs: Arrays) -> Arrays:
        own, task = _own(pieces)
        return task.condense(own, inputs, outputs) if isinstance(task, Condensing) else outputs

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> Result:
        task, own = prepared.context
        result: Result = task.finish(own, outputs)
        return result


def _own(pieces: Sequence[Piece]) -> tuple[list[Piece], Task]:
    """The pieces as their task knows them."""
    keys = [piece.key for piece in pieces if isinstance(piece.key, _Key)]
    own = [replace(piece, key=key.own) for piece, key in zip(pieces, keys, strict=True)]
    return own, keys[0].task
