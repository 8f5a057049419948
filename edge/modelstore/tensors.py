"""The tensor table of a GGUF file: which weights it has, and that all of them lie within it.

llama.cpp asks for weights that stand one behind the other in the order of the table, each at the
next multiple of the alignment. So nothing overlaps, and only the last one can reach too far.
"""

from __future__ import annotations

import math
import re
import struct
from typing import NamedTuple

from edge.modelstore.ggml import TENSOR_TYPES, TensorType
from edge.modelstore.window import Malformed, Window

_U32 = struct.Struct("<I")
_BLOCK = re.compile(r"(?:(?:enc|dec)\.)?blk\.(\d+)\.")

_LONGEST_NAME = 63
_MOST_DIMENSIONS = 4
_MOST_NUMBERS = (1 << 63) - 1
_MOST_ALIGNMENT = 1 << 20


class Tensor(NamedTuple):
    """One entry of the table. shape: the length of a row first. offset: bytes from where the
    weights begin."""

    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.numbers // self.type.block * self.type.size


Tensors = dict[str, Tensor]


def read_tensors(window: Window, count: int, alignment: int) -> Tensors:
    """Read so many entries, which the window stands before. Raises `Malformed`."""
    if not 8 <= alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        raise Malformed(f"general.alignment is {alignment}, not a power of two from 8 up")
    tensors: Tensors = {}
    for _ in range(count):
        name = window.name(_LONGEST_NAME, "tensor name")
        if name in tensors:
            raise Malformed(f"tensor {name!r} is there twice")
        tensors[name] = _read_tensor(window, name)
    _check_places(tensors, alignment, start=aligned(window.at, alignment), size=window.size)
    return tensors


def aligned(place: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-place // alignment) * alignment


def blocks_of(tensors: Tensors) -> set[int]:
    """The numbers of the layers that any tensor belongs to."""
    return {int(found[1]) for name in tensors if (found := _BLOCK.match(name))}


def _read_tensor(window: Window, name: str) -> Tensor:
    dimensions = int(window.scalar(_U32))
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise Malformed(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(window.length() for _ in range(dimensions))
    number = int(window.scalar(_U32))
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise Malformed(f"tensor {name!r} has the unknown type {number}")
    tensor = Tensor(shape, kind, window.length())
    if not 0 < tensor.numbers <= _MOST_NUMBERS or shape[0] % kind.block:
        raise Malformed(f"tensor {name!r} of type {kind.name} has the shape {list(shape)}")
    # llama.cpp multiplies with them as they are, and ends the process over any other type.
    if name.endswith("_norm.weight") and kind.name != "F32":
        raise Malformed(f"tensor {name!r} is of type {kind.name}, and norms are F32")
    return tensor


def _check_places(tensors: Tensors, alignment: int, start: int, size: int) -> None:
    place = 0
    for name, tensor in tensors.items():
        if tensor.offset != place:
            raise Malformed(f"tensor {name!r} {_misplaced(tensor.offset, place, alignment)}")
        end = start + place + tensor.size
        if end > size:
            raise Malformed(f"truncated: tensor {name!r} ends at byte {end} of {size}")
        place = aligned(place + tensor.size, alignment)


def _misplaced(offset: int, place: int, alignment: int) -> str:
    if offset % alignment:
        return f"is not aligned: its offset is {offset}"
    what = "overlaps the one before it" if offset < place else "leaves a gap before it"
    return f"{what}: its offset is {offset} in place of {place}"
