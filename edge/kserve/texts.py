"""Elements of BYTES: texts in JSON; in the binary extension each a length of 4 bytes,
little-endian, and as many bytes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from edge.errors import InvalidRequest
from edge.tensors import Tensor

_LENGTH = struct.Struct("<I")
_NESTED = re.compile(rb"\s*\[\s*\[")


def from_json(data: bytes, shape: list[int], where: str) -> bytes:
    """The texts of a JSON array, flat or nested as `shape` says, as they are in binary data.

    data: valid JSON but for what is in its texts. where: the field. Raises `InvalidRequest`.
    """
    count = math.prod(shape)
    levels = shape if _NESTED.match(data) else [count]
    try:
        found = [_decoder(len(levels)).decode(data)]
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at ")[0]
        raise InvalidRequest(
            f"`{where}`: {problem} in BYTES of shape {shape}", param=where
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest(f"`{where}`: a text is not UTF-8", param=where) from None
    for dimension in levels:  # all rows of one level are looked at, and then those below
        if any(len(row) != dimension for row in found):
            raise InvalidRequest(
                f"`{where}`: not the {count} elements of shape {shape}, flat or nested",
                param=where,
            )
        found = [element for row in found for element in row]
    return packed([text.encode() for text in found])


def to_json(tensor: Tensor) -> bytes:
    """The elements as a flat JSON array. Raises `InvalidRequest` for what is no text."""
    try:
        return msgspec.json.encode([raw.decode() for raw in elements(tensor.data, tensor.name)])
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"the output `{tensor.name}` has elements that are not UTF-8, which JSON does not have",
            param="outputs",
            hint="ask for it with the parameter binary_data",
        ) from None


def check_binary(data: bytes, shape: list[int], where: str) -> None:
    """Raises `InvalidRequest` where the bytes are not as many elements as `shape` says."""
    count, found = math.prod(shape), sum(1 for _ in elements(data, where))
    if found != count:
        raise InvalidRequest(
            f"`{where}`: shape {shape} is {count} elements, and there are {found} in binary data",
            param=where,
        )


def elements(data: bytes, where: str) -> Iterator[bytes]:
    """Of binary data. Raises `InvalidRequest` where one ends behind it."""
    at = 0
    while at < len(data):
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(data, at)[0] if begin <= len(data) else begin
        if at > len(data):
            raise InvalidRequest(
                f"`{where}`: an element of BYTES ends behind the binary data", param=where
            )
        yield data[begin:at]


def packed(contents: list[bytes]) -> bytes:
    """Binary data of these elements."""
    return b"".join(_LENGTH.pack(len(raw)) + raw for raw in contents)


@lru_cache
def _decoder(depth: int) -> msgspec.json.Decoder[Any]:
    nested: Any = str
    for _ in range(depth):
        nested = list[nested]
    return msgspec.json.Decoder(nested)
