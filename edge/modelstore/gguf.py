"""What a GGUF file says about itself, checked before llama.cpp sees the file.

llama.cpp trusts its input more than an appliance can: a truncated or foreign file may take the
worker down instead of giving an error. So everything here is bounded by the size of the file, and
every doubt is a `BadModelFile` that names the file and the reason.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from edge.errors import BadModelFile
from edge.modelstore.foreign import looks_like
from edge.modelstore.ggml import ARCHITECTURES, FILE_TYPES, TENSOR_TYPES
from edge.modelstore.window import Malformed, Window

_MAGIC = b"GGUF"
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
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9

# Far above any real model, and small enough that nobody waits for a file that lies about them.
_MOST_ENTRIES = 65_536
_MOST_CONTEXT = 1 << 28
_MOST_LAYERS = 4_096
_MOST_WIDTH = 1 << 20
_LONGEST_KEY = 65_535
_LONGEST_TENSOR_NAME = 63
_MOST_DIMENSIONS = 4
_TEXT_KEPT = 1_024


class GgufHeader(msgspec.Struct, frozen=True):
    """The facts of a model file that passed the check.

    context: tokens it was trained for. embedding: width of the hidden state.
    kv_values: numbers that the KV cache holds for each token, all layers together; an upper bound
        for sliding-window models, None where the file does not say (recurrent models).
    file_type: name of the quantization, None where the file does not say.
    """

    architecture: str
    name: str
    context: int
    layers: int
    embedding: int
    vocab: int
    parameters: int
    kv_values: int | None
    file_type: str | None
    has_chat_template: bool
    size_bytes: int

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> int | None:
        """Size of one token in the KV cache; f16 has 2 bytes a value, q8_0 34/32, q4_0 18/32."""
        return None if self.kv_values is None else round(self.kv_values * bytes_per_value)


def read_header(path: Path) -> GgufHeader:
    """Check the file and return its facts. Raises `BadModelFile`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise Malformed("not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(256)
            if not head.startswith(_MAGIC):
                raise Malformed(f"not a GGUF file ({looks_like(head, size)})")
            file.seek(0)
            return _parse(Window(file, size))
    except Malformed as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    raise BadModelFile(f"{path}: {reason}", hint="fetch or copy the model again")


class _Array(NamedTuple):
    """An array that was passed in the window: where its elements begin, and of what type."""

    kind: int
    length: int
    start: int


_Value: TypeAlias = "int | float | bool | str | _Array"


def _parse(window: Window) -> GgufHeader:
    window.skip(len(_MAGIC))
    version = int(window.scalar(_U32))
    if version not in (2, 3):
        odd = "big-endian" if version and not version & 0xFFFF else "not one that llama.cpp reads"
        raise Malformed(f"its GGUF version, {version}, is {odd}")
    tensors, entries = window.length(), window.length()
    for count, what in ((tensors, "tensors"), (entries, "metadata entries")):
        if not 0 < count <= _MOST_ENTRIES:
            raise Malformed(f"it declares {count} {what}")
    metadata = _read_metadata(window, entries)
    parameters = _check_tensors(window, tensors, metadata)
    return _header(window, metadata, parameters)


def _read_metadata(window: Window, entries: int) -> dict[str, _Value]:
    metadata: dict[str, _Value] = {}
    for _ in range(entries):
        key = _read_name(window, _LONGEST_KEY, "metadata key")
        if key in metadata:
            raise Malformed(f"metadata key {key!r} is there twice")
        metadata[key] = _read_value(window, key)
    return metadata


def _read_name(window: Window, longest: int, what: str) -> str:
    raw = window.text(longest + 1)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"the {what} {raw[:32]!r} is not UTF-8") from None
    if not name or len(raw) > longest:
        raise Malformed(f"a {what} is empty or longer than {longest} bytes: {name[:32]!r}")
    return name


def _read_value(window: Window, key: str) -> _Value:
    kind = int(window.scalar(_U32))
    if kind in _SCALARS:
        return window.scalar(_SCALARS[kind])
    if kind == _STRING:  # no text that is looked at here is longer than what is kept
        return window.text(_TEXT_KEPT).decode("utf-8", errors="replace")
    if kind != _ARRAY:
        raise Malformed(f"metadata key {key!r} has the unknown type {kind}")
    element, length = int(window.scalar(_U32)), window.length()
    start = window.at
    if element == _STRING:
        window.skip_texts(length)
    elif element in _SCALARS:
        window.skip(length * _SCALARS[element].size)
    else:
        raise Malformed(f"metadata key {key!r} is an array of the unknown type {element}")
    return _Array(element, length, start)


def _check_tensors(window: Window, count: int, metadata: Mapping[str, _Value]) -> int:
    """Check that every tensor lies within the file; return how many numbers they hold."""
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise Malformed(f"general.alignment is {alignment}, not a power of two from 8 up")
    ends: dict[str, int] = {}
    parameters = 0
    for _ in range(count):
        name = _read_name(window, _LONGEST_TENSOR_NAME, "tensor name")
        if name in ends:
            raise Malformed(f"tensor {name!r} is there twice")
        numbers, size = _read_shape(window, name)
        offset = window.length()
        if offset % alignment:
            raise Malformed(f"tensor {name!r} is not aligned: its offset is {offset}")
        parameters += numbers
        ends[name] = offset + size
    data = -(-window.at // alignment) * alignment
    for name, end in ends.items():
        if data + end > window.size:
            raise Malformed(
                f"truncated: tensor {name!r} ends at byte {data + end} of {window.size}"
            )
    return parameters


def _read_shape(window: Window, name: str) -> tuple[int, int]:
    """How many numbers a tensor holds, and in how many bytes."""
    dimensions = int(window.scalar(_U32))
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise Malformed(f"tensor {name!r} has {dimensions} dimensions")
    shape = [window.length() for _ in range(dimensions)]
    number = int(window.scalar(_U32))
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise Malformed(f"tensor {name!r} has the unknown type {number}")
    numbers = 1
    for length in shape:
        numbers *= length
    if not numbers or shape[0] % kind.block:
        raise Malformed(f"tensor {name!r} of type {kind.name} has the shape {shape}")
    return numbers, numbers // kind.block * kind.size


def _header(window: Window, metadata: Mapping[str, _Value], parameters: int) -> GgufHeader:
    architecture = _check_kind(metadata)

    def number(key: str, most: int) -> int:
        value = metadata.get(f"{architecture}.{key}")
        if type(value) is not int or not 0 < value <= most:
            said = "missing" if value is None else f"{value!r}"
            raise Malformed(f"{architecture}.{key} is {said}")
        return value

    name, file_type = metadata.get("general.name"), metadata.get("general.file_type")
    layers, embedding = number("block_count", _MOST_LAYERS), number("embedding_length", _MOST_WIDTH)
    return GgufHeader(
        architecture=architecture,
        name=name if isinstance(name, str) else "",
        context=number("context_length", _MOST_CONTEXT),
        layers=layers,
        embedding=embedding,
        vocab=_check_vocabulary(metadata),
        parameters=parameters,
        kv_values=_kv_values(window, metadata, f"{architecture}.attention.", layers, embedding),
        file_type=FILE_TYPES.get(file_type) if type(file_type) is int else None,
        has_chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
        size_bytes=window.size,
    )


def _check_kind(metadata: Mapping[str, _Value]) -> str:
    """The architecture of a file that holds a whole language model."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise Malformed("it does not say its general.architecture")
    what = metadata.get("general.type", "model")
    if what != "model":
        raise Malformed(f"it is of the type {what!r}, not a model of its own")
    if architecture not in ARCHITECTURES:
        raise Malformed(f"llama.cpp has no language model architecture {architecture!r}")
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise Malformed(f"it is one of {parts} parts: join them with llama-gguf-split --merge")
    return architecture


def _check_vocabulary(metadata: Mapping[str, _Value]) -> int:
    model = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or model in ("", "no_vocab") or not isinstance(tokens, _Array):
        raise Malformed("it has no tokenizer")
    if tokens.kind != _STRING or not tokens.length:
        raise Malformed("its tokenizer has no tokens")
    # Older llama.cpp indexed these by token without looking at their type or length.
    for key, kinds in (("scores", (_FLOAT32, _INT32)), ("token_type", (_INT32,))):
        array = metadata.get(f"tokenizer.ggml.{key}")
        if array is None:
            continue
        if not isinstance(array, _Array) or array.kind not in kinds or array.length < tokens.length:
            raise Malformed(f"tokenizer.ggml.{key} does not fit its {tokens.length} tokens")
    return tokens.length


def _kv_values(
    window: Window, metadata: Mapping[str, _Value], prefix: str, layers: int, embedding: int
) -> int | None:
    def each_layer(key: str) -> list[int] | None:
        """One number for all layers, or an array with one for each."""
        value = metadata.get(prefix + key)
        if value is None:
            return None
        numbers: list[int] = []
        if type(value) is int:
            numbers = [value] * layers
        elif isinstance(value, _Array) and value.length >= layers:
            letter = {_UINT32: "I", _INT32: "i"}.get(value.kind)
            numbers = list(window.numbers(value.start, letter, layers)) if letter else []
        if not numbers or min(numbers) < 0 or max(numbers) > _MOST_WIDTH:
            raise Malformed(f"{prefix}{key} is not a size for each of {layers} layers")
        return numbers

    heads = each_layer("head_count")
    if heads is None or not any(heads):
        return None
    width = embedding // max(heads)
    kv_heads = each_layer("head_count_kv") or heads
    keys = each_layer("key_length") or [width] * layers
    values = each_layer("value_length") or [width] * layers
    return sum(n * (key + value) for n, key, value in zip(kv_heads, keys, values, strict=True))
