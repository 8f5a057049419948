"""Splits a GGUF file as `llama-gguf-split` does, for the tests of models in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf


def split(
    whole: Path, folder: Path, count: int, stem: str, *, bare_first: bool = False
) -> list[Path]:
    """The first part has all metadata, the others say only which part they are.

    bare_first: as with `--no-tensor-first-split`.
    """
    reader = gguf.GGUFReader(whole)
    tensors = list(reader.tensors)
    each = -(-len(tensors) // (count - bare_first))
    paths = []
    for number in range(count):
        path = folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf"
        writer = gguf.GGUFWriter(path, _text(reader, "general.architecture"))
        if number:
            writer.kv_data[0].clear()
        else:
            _copy_metadata(reader, writer)
            writer.data_alignment = reader.alignment
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(tensors))
        start = (number - bare_first) * each
        for tensor in tensors[max(0, start) : max(0, start + each)]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def _text(reader: gguf.GGUFReader, key: str) -> str:
    return str(reader.fields[key].contents())


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value: Any = field.contents()
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=field.types[-1])
        else:
            writer.add_key_value(key, value, field.types[0])
