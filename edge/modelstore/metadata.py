"""The keys and values at the head of a GGUF file, and how they are asked for.

Texts are kept up to a length that every text which is looked at fits in, arrays as the place where
they begin: vocabularies have 256k tokens, and most of what a file says is of no use here.
"""

from __future__ import annotations

import codecs
import math
import struct
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from edge.modelstore.window import Malformed, Window

_U32 = struct.Struct("<I")
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9

_LONGEST_KEY = 65_535
_TEXT_KEPT = 1_024
_TEXT_STEP = 1 << 16


class Array(NamedTuple):
    """An array that was passed in the window: where its elements are, and of what type."""

    kind: int
    length: int
    start: int
    end: int


_Value: TypeAlias = "int | float | bool | str | Array"


class Metadata:
    """What a file says of itself. Every method raises `Malformed` where that makes no sense."""

    def __init__(
        self,
        window: Window,
        values: dict[str, tuple[int, _Value]],
        places: dict[str, tuple[int, int]],
    ) -> None:
        self._window = window
        self._values = values
        self._places = places

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def raw(self, key: str) -> bytes:
        """The bytes of an entry as they stand in the file, its key included."""
        return self._window.stretch(*self._places[key])

    def text(self, key: str) -> str | None:
        """The first kilobyte of a text; None where the key is missing."""
        kind, value = self._values.get(key, (STRING, None))
        if kind != STRING:
            raise Malformed(f"{key} is {_shown(value)}, not a text")
        assert value is None or isinstance(value, str)
        return value

    def count(self, key: str) -> int | None:
        """A whole number of any type."""
        value = self._values.get(key, (UINT32, None))[1]
        if value is not None and type(value) is not int:
            raise Malformed(f"{key} is {_shown(value)}, not a whole number")
        return value

    def number(self, key: str, least: int, most: int) -> int | None:
        """A 32-bit number without sign, the only type that llama.cpp takes for sizes."""
        kind, value = self._values.get(key, (UINT32, None))
        if value is None:
            return None
        if kind != UINT32 or type(value) is not int or not least <= value <= most:
            raise Malformed(f"{key} is {_shown(value)}, not a number from {least} to {most}")
        return value

    def real(self, key: str) -> float | None:
        """A 32-bit floating-point number that is none of infinity and NaN."""
        kind, value = self._values.get(key, (FLOAT32, None))
        if value is None:
            return None
        if kind != FLOAT32 or not isinstance(value, float) or not math.isfinite(value):
            raise Malformed(f"{key} is {_shown(value)}, not a number")
        return value

    def needed(self, key: str, most: int) -> int:
        """A number from 1 to `most` that the file has to give."""
        value = self.number(key, 1, most)
        if value is None:
            raise Malformed(f"{key} is missing")
        return value

    def array(self, key: str) -> Array | None:
        value = self._values.get(key, (ARRAY, None))[1]
        if value is not None and not isinstance(value, Array):
            raise Malformed(f"{key} is {_shown(value)}, not an array")
        return value

    def texts(self, array: Array) -> list[bytes]:
        """The elements of an array of texts."""
        return self._window.texts(array.start, array.end, array.length)

    def each_layer(self, key: str, layers: int, most: int) -> list[int] | None:
        """One number for all layers, or an array with one for each; None where it is missing."""
        value = self._values.get(key, (UINT32, None))[1]
        if not isinstance(value, Array):
            number = self.number(key, 0, most)
            return None if number is None else [number] * layers
        letter = {UINT32: "I", INT32: "i"}.get(value.kind)
        if value.length != layers or letter is None:
            raise Malformed(f"{key} has not a number for each of {layers} layers")
        numbers = list(self._window.numbers(value.start, letter, layers))
        if not 0 <= min(numbers) <= max(numbers) <= most:
            raise Malformed(f"{key} has a number that is not from 0 to {most}")
        return numbers


def read_metadata(window: Window, entries: int) -> Metadata:
    """Read so many keys and values. Raises `Malformed`."""
    values: dict[str, tuple[int, _Value]] = {}
    places: dict[str, tuple[int, int]] = {}
    for _ in range(entries):
        start = window.at
        key = window.name(_LONGEST_KEY, "metadata key")
        if key in values:
            raise Malformed(f"metadata key {key[:64]!r} is there twice")
        kind = int(window.scalar(_U32))
        values[key] = kind, _read_value(window, key, kind)
        places[key] = start, window.at
    return Metadata(window, values, places)


def _read_value(window: Window, key: str, kind: int) -> _Value:
    if kind in _SCALARS:
        return window.scalar(_SCALARS[kind])
    if kind == STRING:
        return _read_text(window, key)
    if kind != ARRAY:
        raise Malformed(f"metadata key {key[:64]!r} has the unknown type {kind}")
    element, length = int(window.scalar(_U32)), window.length()
    start = window.at
    if element == STRING:
        window.skip_texts(length)
    elif element in _SCALARS:
        window.skip(length * _SCALARS[element].size)
    else:
        what = "of arrays" if element == ARRAY else f"of the unknown type {element}"
        raise Malformed(f"metadata key {key[:64]!r} is an array {what}")
    return Array(element, length, start, window.at)


def _read_text(window: Window, key: str) -> str:
    """The beginning of a text that is checked to its end, a piece at a time."""
    length = window.length()
    start = window.at
    window.skip(length)
    decoder = codecs.getincrementaldecoder("utf-8")()
    kept = ""
    try:
        for at in range(start, window.at, _TEXT_STEP):
            text = decoder.decode(window.stretch(at, min(at + _TEXT_STEP, window.at)))
            kept = kept or text[:_TEXT_KEPT]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise Malformed(f"the text of metadata key {key[:64]!r} is not UTF-8") from None
    return kept


def _shown(value: _Value | None) -> str:
    if isinstance(value, Array):
        return "an array"
    return repr(value[:64] if isinstance(value, str) else value)
