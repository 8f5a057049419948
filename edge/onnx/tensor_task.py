"""Task `tensors`: whatever the model takes, checked against what it declares, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.errors import InferenceFailed, InvalidRequest
from edge.frames import LARGEST_MESSAGE
from edge.onnx.elements import to_array, to_tensor
from edge.onnx.task import Arrays, Model, Piece, Prepared
from edge.tensors import Tensor, TensorFacts, TensorResult, TensorWork, Work

LARGEST_RESULT = LARGEST_MESSAGE - (1 << 20)


class TensorTask:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._inputs = {one.name: one for one in model.inputs}
        self._outputs = {one.name: one for one in model.outputs}

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        if not isinstance(work, TensorWork):
            raise InvalidRequest(
                f"{self._model.name} takes tensors; its manifest names no other task", param="model"
            )
        wanted = self._wanted(work.outputs)
        arrays = self._arrays(work.inputs)
        if not self._model.batched:
            return Prepared([Piece(arrays, rows=1)], wanted)
        rows = self._rows(arrays)
        key = tuple((name, array.shape[1:]) for name, array in sorted(arrays.items()))
        pieces = []
        for first in range(0, rows, max_batch):
            part = {name: array[first : first + max_batch] for name, array in arrays.items()}
            pieces.append(Piece(part, min(max_batch, rows - first), key))
        return Prepared(pieces, wanted)

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        if len(pieces) == 1:
            return pieces[0].inputs
        names = pieces[0].inputs
        return {name: np.concatenate([piece.inputs[name] for piece in pieces]) for name in names}

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> TensorResult:
        wanted: list[str] = prepared.context
        arrays = {
            name: outputs[0][name]
            if len(outputs) == 1
            else np.concatenate([output[name] for output in outputs])
            for name in wanted
        }
        size = sum(array.nbytes for array in arrays.values())
        if size > LARGEST_RESULT:
            raise InferenceFailed(
                f"the outputs have {size:,} bytes, and {LARGEST_RESULT:,} at most are answered",
                hint="ask for fewer rows, or for fewer outputs",
            )
        return TensorResult(
            [to_tensor(name, self._outputs[name].datatype, arrays[name]) for name in wanted]
        )

    def _wanted(self, names: list[str]) -> list[str]:
        for name in names:
            if name not in self._outputs:
                there = ", ".join(self._outputs)
                raise InvalidRequest(
                    f"the model has no output `{name}`; it has {there}", param=f"outputs.{name}"
                )
        return list(dict.fromkeys(names)) or list(self._outputs)

    def _arrays(self, tensors: list[Tensor]) -> Arrays:
        arrays: Arrays = {}
        for tensor in tensors:
            declared = self._inputs.get(tensor.name)
            where = f"inputs.{tensor.name}"
            if declared is None:
                there = ", ".join(self._inputs)
                raise InvalidRequest(
                    f"the model has no input `{tensor.name}`; it has {there}", param=where
                )
            if tensor.name in arrays:
                raise InvalidRequest(f"the input `{tensor.name}` is given twice", param=where)
            _check(tensor, declared)
            arrays[tensor.name] = to_array(tensor)
        for name in self._inputs:
            if name not in arrays:
                raise InvalidRequest(f"the input `{name}` is missing", param=f"inputs.{name}")
        return arrays

    def _rows(self, arrays: dict[str, np.ndarray[Any, Any]]) -> int:
        rows = {name: array.shape[0] for name, array in arrays.items()}
        first = next(iter(rows.values()), 0)
        if first == 0 or any(count != first for count in rows.values()):
            said = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise InvalidRequest(
                f"all inputs are to have as many rows, at least one; there are: {said}",
                param="inputs",
            )
        return first


def _check(tensor: Tensor, declared: TensorFacts) -> None:
    """Raises `InvalidRequest` where type or shape are not those of the input."""
    where = f"inputs.{tensor.name}"
    if tensor.datatype != declared.datatype:
        raise InvalidRequest(
            f"the input `{tensor.name}` is of {tensor.datatype}, and the model takes "
            f"{declared.datatype}",
            param=where,
        )
    fits = len(tensor.shape) == len(declared.shape) and all(
        there in (-1, given) for given, there in zip(tensor.shape, declared.shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"the input `{tensor.name}` has the shape {tensor.shape}, and the model takes "
            f"{declared.shape}",
            param=where,
        )
