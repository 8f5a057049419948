"""The largest elements of an output as texts: Triton's classification extension.

https://github.com/triton-inference-server/server, docs/protocol/extension_classification.md
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.errors import InvalidRequest
from edge.kserve import texts
from edge.kserve.numbers import DTYPES
from edge.tensors import Tensor


def classified(tensor: Tensor, count: int) -> Tensor:
    """`value:index` of the `count` largest elements, the largest first: BYTES, [rows, count].

    The first of several dimensions is rows; what is behind it is counted through. Without rows the
    shape is [count]. Raises `InvalidRequest` for texts.
    """
    if tensor.datatype == "BYTES":
        raise InvalidRequest(
            f"the output `{tensor.name}` has texts, which cannot be classified",
            param="outputs",
        )
    array = np.frombuffer(tensor.data, DTYPES[tensor.datatype])
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    table = array.reshape(rows, array.size // max(1, rows))
    count = min(count, table.shape[1])
    found = [_spelled(row, index) for row in table for index in _largest(row)[:count]]
    shape = [rows, count] if len(tensor.shape) > 1 else [count]
    return Tensor(tensor.name, "BYTES", shape, texts.packed(found))


def _largest(row: npt.NDArray[np.generic]) -> list[int]:
    """Indices, of equal elements the first one first; NaN is behind all others."""
    backwards = np.argsort(row[::-1], kind="stable")[::-1]
    order: list[int] = (row.size - 1 - backwards).tolist()
    if row.dtype.kind == "f":
        order.sort(key=lambda index: bool(np.isnan(row[index])))
    return order


def _spelled(row: npt.NDArray[np.generic], index: int) -> bytes:
    value = row[index].item()
    text = f"{value:f}" if isinstance(value, float) else str(int(value))
    return f"{text}:{index}".encode()
