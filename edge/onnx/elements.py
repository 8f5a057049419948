"""Elements of tensors between the bytes of a message and numpy's arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from edge.errors import InvalidRequest
from edge.tensors import LAYOUTS, SIZES, Datatype, Tensor

NUMPY: dict[Datatype, np.dtype[Any]] = {name: np.dtype(code) for name, code in LAYOUTS.items()}

ONNX: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""By onnxruntime's names of types."""

_LENGTH = struct.Struct("<I")


def to_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """An array over the tensor's own bytes; texts as an array of str.

    Raises `InvalidRequest` where the bytes are not as many as the shape says.
    """
    elements = 1
    for size in tensor.shape:
        if size < 0:
            raise _wrong(tensor, f"its shape is {tensor.shape}")
        elements *= size
    if tensor.datatype == "BYTES":
        texts = np.array(_texts(tensor), dtype=object)
        if len(texts) != elements:
            raise _wrong(tensor, f"has {len(texts)} elements, and its shape {tensor.shape}")
        return texts.reshape(tensor.shape)
    if len(tensor.data) != elements * SIZES[tensor.datatype]:
        raise _wrong(
            tensor,
            f"has {len(tensor.data):,} bytes, and its shape {tensor.shape} of {tensor.datatype} "
            f"takes {elements * SIZES[tensor.datatype]:,}",
        )
    if tensor.datatype == "BOOL" and tensor.data.translate(None, b"\0\1"):
        raise _wrong(tensor, "has bytes other than 0 and 1 for BOOL")
    return np.frombuffer(tensor.data, NUMPY[tensor.datatype]).reshape(tensor.shape)


def to_tensor(name: str, datatype: Datatype, array: np.ndarray[Any, Any]) -> Tensor:
    shape = list(array.shape)
    if datatype != "BYTES":
        return Tensor(name, datatype, shape, array.astype(NUMPY[datatype], copy=False).tobytes())
    pieces = []
    for text in array.ravel():
        raw = text if isinstance(text, bytes) else str(text).encode()
        pieces += [_LENGTH.pack(len(raw)), raw]
    return Tensor(name, datatype, shape, b"".join(pieces))


def _texts(tensor: Tensor) -> list[str]:
    found: list[str] = []
    data, at = tensor.data, 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise _wrong(tensor, "ends within the length of an element")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            raise _wrong(tensor, f"ends within element {len(found)}")
        try:
            found.append(data[at : at + size].decode())
        except UnicodeDecodeError:
            raise _wrong(tensor, f"element {len(found)} is not UTF-8, as models take it") from None
        at += size
    return found


def _wrong(tensor: Tensor, what: str) -> InvalidRequest:
    return InvalidRequest(f"the input `{tensor.name}` {what}", param=f"inputs.{tensor.name}")
