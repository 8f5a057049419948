"""Looks at an ONNX file before onnxruntime does: whether it is one, whole, and what it refers to.

A walk over the protobuf messages of ModelProto, without their contents:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
What operators there are, and whether shapes fit together, onnxruntime says when it loads.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge.errors import BadModelFile

DEEPEST = 100
"""Messages within each other; protobuf's own limit."""

MOST_FIELDS = 20_000_000
"""Looked at, which takes some seconds. Models of gigabytes have some hundred thousand."""

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5

BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    15: 128,
}
"""Of an element, by the number of its TensorProto.DataType; texts, 8, have no such size."""

STRING = 8

WITHIN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Fields of each message that lead to a tensor."""

TYPED = {4, 5, 6, 7, 10, 11}
"""Fields of a tensor that hold its elements, but for raw ones."""


class Contents(msgspec.Struct):
    """opset: of ONNX itself; 0 where only others are used. external: files with weights."""

    ir_version: int = 0
    opset: int = 0
    has_graph: bool = False
    external: set[str] = msgspec.field(default_factory=set)


class Field(NamedTuple):
    """value: of a number. start, end: of its bytes in the file."""

    number: int
    wire: int
    value: int
    start: int
    end: int


def check(path: Path) -> Contents:
    """Raises `BadModelFile` with what is wrong, and `OSError`."""
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise BadModelFile(f"{path.name}: the file is empty") from None
    with data:
        try:
            return _Walk(data, path.parent).contents()
        except BadModelFile as error:
            raise BadModelFile(f"{path.name}: {error.message}", hint=error.hint) from None


class _Walk:
    def __init__(self, data: mmap.mmap, folder: Path) -> None:
        self._data = data
        self._folder = folder.resolve()
        self._left = MOST_FIELDS
        self._found = Contents()

    def contents(self) -> Contents:
        found = self._found
        for field in self._fields(0, len(self._data)):
            if field.number == 1 and field.wire == VARINT:
                found.ir_version = field.value
            elif field.number == 8 and field.wire == BYTES:
                self._opset(field)
            elif field.number == 7:
                found.has_graph = True
        if not (found.has_graph and found.ir_version):
            raise BadModelFile(
                "it is no ONNX model", hint="export the model to ONNX; other formats are not served"
            )
        self._descend()
        return found

    def _descend(self) -> None:
        """Without recursion, so that a file that is nested for that is only refused."""
        stack = [("model", 0, len(self._data), 0)]
        while stack:
            kind, start, end, depth = stack.pop()
            if depth > DEEPEST:
                raise BadModelFile(f"messages are nested deeper than {DEEPEST}")
            if kind == "tensor":
                self._tensor(start, end)
                continue
            within = WITHIN[kind]
            for field in self._fields(start, end):
                if field.number in within:
                    if field.wire != BYTES:
                        raise _broken(field.start)
                    stack.append((within[field.number], field.start, field.end, depth + 1))

    def _tensor(self, start: int, end: int) -> None:
        """That it has as many bytes as its shape says, here or in a file of its own."""
        elements, kind, name = 1, 0, ""
        raw: int | None = None
        typed, outside = 0, False
        said: dict[str, str] = {}
        for field in self._fields(start, end):
            if field.number == 1:
                for size in self._numbers(field):
                    elements *= size
            elif field.number == 2:
                kind = field.value
            elif field.number == 8:
                name = self._text(field)
            elif field.number == 9:
                raw = field.end - field.start
            elif field.number == 13:
                key, value = self._entry(field)
                said[key] = value
            elif field.number == 14:
                outside = field.value == 1
            elif field.number in TYPED:
                typed += field.end - field.start + (field.wire != BYTES or field.number == 6)
        if kind not in BITS and kind != STRING:
            raise BadModelFile(f"the tensor `{name}` has the unknown datatype {kind}")
        wanted = -(-elements * BITS.get(kind, 0) // 8)
        if outside:
            self._outside(name, said, wanted)
        elif raw is not None and kind != STRING:
            if raw != wanted:
                raise BadModelFile(
                    f"the tensor `{name}` is to have {wanted:,} bytes, and there are {raw:,}"
                )
        elif elements > 8 * typed:  # packed numbers of 4 bits and less share a byte
            raise BadModelFile(
                f"the tensor `{name}` is to have {elements:,} elements, and there are {typed:,} "
                "bytes of them"
            )

    def _outside(self, name: str, said: dict[str, str], wanted: int) -> None:
        location = said.get("location", "")
        path = (self._folder / location).resolve()
        if not path.is_relative_to(self._folder):
            raise BadModelFile(
                f"the weights of `{name}` are at {location!r}, outside of the model's folder"
            )
        if not location or not path.is_file():
            raise BadModelFile(
                f"the weights of `{name}` are in {location!r}, and there is no such file",
                hint="copy it beside the model file",
            )
        try:
            offset = int(said.get("offset", "0"))
            length = int(said.get("length", str(wanted)))
        except ValueError:
            raise BadModelFile(f"offset or length of `{name}` is no number") from None
        if min(offset, length) < 0 or length != wanted:
            raise BadModelFile(
                f"the tensor `{name}` is to have {wanted:,} bytes, and {length:,} are said"
            )
        there = path.stat().st_size
        if offset + length > there:
            raise BadModelFile(
                f"{location} has {there:,} bytes; `{name}` is to end at {offset + length:,}"
            )
        self._found.external.add(location)

    def _opset(self, field: Field) -> None:
        domain, version = "", 0
        for part in self._fields(field.start, field.end):
            if part.number == 1:
                domain = self._text(part)
            elif part.number == 2:
                version = part.value
        if domain in ("", "ai.onnx"):
            self._found.opset = version

    def _entry(self, field: Field) -> tuple[str, str]:
        """Key and value of a StringStringEntryProto."""
        parts = {part.number: part for part in self._fields(field.start, field.end)}
        key, value = (self._text(parts[n]) if n in parts else "" for n in (1, 2))
        return key, value

    def _text(self, field: Field) -> str:
        if field.end - field.start > 4096:
            raise BadModelFile("a name has more than 4,096 bytes")
        try:
            return self._data[field.start : field.end].decode()
        except UnicodeDecodeError:
            raise BadModelFile("a name is not UTF-8") from None

    def _numbers(self, field: Field) -> Iterator[int]:
        """Of a repeated number, one in each field or packed; none of them may be negative."""
        values = [field.value]
        if field.wire == BYTES:
            values, at = [], field.start
            while at < field.end:
                value, at = self._varint(at, field.end)
                values.append(value)
        for value in values:
            if value >= 1 << 63:
                raise BadModelFile("a tensor has a negative size")
            yield value

    def _fields(self, start: int, end: int) -> Iterator[Field]:
        """Raises `BadModelFile` where it is no message, or one that is cut."""
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise BadModelFile(f"it has more than {MOST_FIELDS:,} fields")
            key, at = self._varint(at, end)
            number, wire, value = key >> 3, key & 7, 0
            first = at
            if wire == VARINT:
                value, at = self._varint(at, end)
            elif wire == BYTES:
                size, first = self._varint(at, end)
                at = first + size
            elif wire in (EIGHT, FOUR):
                at += 8 if wire == EIGHT else 4
            else:
                raise _broken(at)
            if not number or at > end:
                raise _broken(first)
            yield Field(number, wire, value, first, at)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        data = self._data
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise _broken(at)


def _broken(at: int) -> BadModelFile:
    return BadModelFile(
        f"it is cut or no ONNX model: nothing that can be read stands at byte {at:,}",
        hint="copy or export it again",
    )
