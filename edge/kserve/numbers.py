"""A tensor's numbers: from JSON to the bytes of the binary extension, and back.

They go through in slices. A call into C holds the interpreter's lock to its end, and megabytes of
digits in one call would stop the event loop although another thread makes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from edge.errors import InvalidRequest
from edge.tensors import LAYOUTS, SIZES, Datatype, Tensor

SLICE = 1 << 16
"""Bytes of JSON in one call; of digits they take half a millisecond."""

SLICE_ELEMENTS = 4096
"""Elements that become about as many bytes of JSON."""

DTYPES: dict[Datatype, np.dtype[Any]] = {name: np.dtype(code) for name, code in LAYOUTS.items()}
"""Elements as the binary extension lays them out."""

_DECODERS: dict[str, msgspec.json.Decoder[list[Any]]] = {
    "b": msgspec.json.Decoder(list[bool]),
    "u": msgspec.json.Decoder(list[int]),
    "i": msgspec.json.Decoder(list[int]),
    "f": msgspec.json.Decoder(list[float]),
}
"""By numpy's letter for the kind of a type."""

_SPELLED_WITH = {
    "b": b"truefals",
    "u": b"+-0123456789",
    "i": b"+-0123456789",
    "f": b"+-.eE0123456789",
}
_BLANKS = b" \t\r\n"

_WORDS = {b'"': "a text", b"{": "an object", b"n": "null", b"t": "true", b"f": "false"}
"""For what begins so."""


def from_json(data: bytes, datatype: Datatype, shape: list[int], where: str) -> bytes:
    """The elements of a JSON array, flat or nested as `shape` says.

    data: valid JSON. where: the field, for refusals. Raises `InvalidRequest`.

    What is left of the JSON without its numbers has to be what the shape has without them. That
    finds what is ragged in any depth, and makes nothing that is larger than `data`.
    """
    kind = DTYPES[datatype].kind
    brackets = _without(data, _SPELLED_WITH[kind] + _BLANKS)
    if strange := brackets.translate(None, b"[],"):
        what = _WORDS.get(strange[:1], "a fraction" if kind in "ui" else "a number")
        raise InvalidRequest(f"`{where}`: {what} is no element of {datatype}", param=where)
    flat = _flat(data, brackets, shape)
    packed = None if flat is None else _packed(flat, datatype, shape, where)
    if packed is None or len(packed) != math.prod(shape) * SIZES[datatype]:
        raise InvalidRequest(
            f"`{where}`: not the {math.prod(shape)} elements of shape {shape}, flat or nested",
            param=where,
        )
    return packed


def to_json(tensor: Tensor) -> bytes:
    """The elements as a flat JSON array. Raises `InvalidRequest` for NaN and infinity."""
    array = np.frombuffer(tensor.data, DTYPES[tensor.datatype])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(
            f"the output `{tensor.name}` has NaN or infinite elements, which JSON does not have",
            param="outputs",
            hint="ask for it with the parameter binary_data",
        )
    slices = (array[at : at + SLICE_ELEMENTS] for at in range(0, array.size, SLICE_ELEMENTS))
    return b"[" + b",".join(msgspec.json.encode(part.tolist())[1:-1] for part in slices) + b"]"


def check_binary(data: bytes, datatype: Datatype, shape: list[int], where: str) -> None:
    """Raises `InvalidRequest` where the bytes are not as many elements as `shape` says."""
    wanted = math.prod(shape) * SIZES[datatype]
    if len(data) != wanted:
        raise InvalidRequest(
            f"`{where}`: shape {shape} of {datatype} takes {wanted} bytes, "
            f"and there are {len(data)} of binary data",
            param=where,
        )
    if datatype == "BOOL" and data.translate(None, b"\0\1"):
        raise InvalidRequest(f"`{where}`: a byte of BOOL is 0 or 1", param=where)


def _flat(data: bytes, brackets: bytes, shape: list[int]) -> bytes | None:
    """The numbers and the commas between them; None where the nesting is not the shape's."""
    if _is_array(brackets, [math.prod(shape)]):
        return data.strip()[1:-1]
    return _without(data, b"[]") if _is_array(brackets, shape) else None


def _packed(flat: bytes, datatype: Datatype, shape: list[int], where: str) -> bytes | None:
    """None where an array has nothing in it that the shape gives one element."""
    if not math.prod(shape):
        return None if flat.strip(b"," + _BLANKS) else b""
    decoder = _DECODERS[DTYPES[datatype].kind]
    try:
        return b"".join(_cast(decoder.decode(part), datatype, where) for part in _slices(flat))
    except msgspec.DecodeError:
        return None


def _cast(values: list[Any], datatype: Datatype, where: str) -> bytes:
    dtype = DTYPES[datatype]
    try:
        if dtype.kind != "f":
            return np.array(values, dtype).tobytes()
        with np.errstate(over="ignore"):
            cast = np.array(values, "<f8").astype(dtype)
        if np.isfinite(cast).all():
            return cast.tobytes()
    except OverflowError:
        pass
    raise InvalidRequest(f"`{where}`: a number does not fit into {datatype}", param=where)


def _without(data: bytes, characters: bytes) -> bytes:
    parts = (data[at : at + SLICE] for at in range(0, len(data), SLICE))
    return b"".join(part.translate(None, characters) for part in parts)


def _slices(flat: bytes) -> Iterator[bytes]:
    """JSON arrays of some elements each, from all of them with commas between."""
    begin = 0
    while begin < len(flat):
        end = flat.find(b",", begin + SLICE)
        end = len(flat) if end < 0 else end
        yield b"[" + flat[begin:end] + b"]"
        begin = end + 1


def _is_array(brackets: bytes, shape: list[int]) -> bool:
    """Whether these are the brackets and commas of an array of that shape.

    One element looks like none. The length is computed first: a shape may say anything.
    """
    outer = shape[: shape.index(0) + 1] if 0 in shape else shape or [1]
    length = 0
    for dimension in reversed(outer):
        length = 2 + dimension * length + max(0, dimension - 1)
    if length != len(brackets):
        return False
    expected = b""
    for dimension in reversed(outer):
        expected = b"[" + (expected + b",") * (dimension - 1) + expected * (dimension > 0) + b"]"
    return expected == brackets
