"""What a GGUF file says about itself, checked before llama.cpp sees the file.

llama.cpp trusts its input more than an appliance can: a truncated or foreign file may take the
worker down instead of giving an error. So everything here is bounded by the size of the file, and
every doubt is a `BadModelFile` that names the file and the reason. The weights are not read.

    window ──► container ──► metadata ──► vocabulary, dimensions
                         └─► tensors  ──────────────┘
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edge.errors import BadModelFile
from edge.modelstore.adapter import AdapterHeader, adapter_facts, is_adapter
from edge.modelstore.container import Contents, explained, open_gguf, read_contents
from edge.modelstore.dimensions import read_dimensions
from edge.modelstore.ggml import ARCHITECTURES, FILE_TYPES
from edge.modelstore.metadata import Metadata
from edge.modelstore.parts import PART
from edge.modelstore.vocabulary import check_vocabulary
from edge.modelstore.window import Malformed, Window


class GgufHeader(msgspec.Struct, frozen=True):
    """The facts of a model file that passed the check.

    context, layers, embedding, kv_values, heads, feed_forward: see `Dimensions`.
    file_type: name of the quantization, None where the file does not say.
    embeds: it pools what it computes of a text into a vector, and generates nothing.
    """

    architecture: str
    name: str
    context: int
    layers: int
    embedding: int
    vocab: int
    parameters: int
    kv_values: int | None
    heads: int | None
    feed_forward: int | None
    file_type: str | None
    has_chat_template: bool
    size_bytes: int
    embeds: bool = False


def read_header(path: Path) -> GgufHeader:
    """Check the file of a model and return its facts. Raises `BadModelFile`."""
    with explained(path), open_gguf(path) as file:
        size = os.fstat(file.fileno()).st_size
        return _model_facts(read_contents(Window(file, size)), path.name, size)


def read_generating(path: Path) -> GgufHeader:
    """The same for what measures how a model generates. Raises `BadModelFile`."""
    header = read_header(path)
    if header.embeds:
        raise BadModelFile(
            f"{path.name} is of a model that makes vectors of texts and generates nothing, and "
            "only generating is measured",
            hint="name a model that generates",
        )
    return header


def read_installable(path: Path) -> GgufHeader | AdapterHeader:
    """The same for what the store takes: a model or an adapter. Raises `BadModelFile`."""
    with explained(path), open_gguf(path) as file:
        size = os.fstat(file.fileno()).st_size
        contents = read_contents(Window(file, size))
        if is_adapter(contents):
            return adapter_facts(contents, size)
        return _model_facts(contents, path.name, size)


def _model_facts(contents: Contents, name: str, size: int) -> GgufHeader:
    metadata, tensors = contents.metadata, contents.tensors
    _check_whole(metadata, name)  # the first part of several may have no tensors
    if not tensors:
        raise Malformed("it declares 0 tensors")
    architecture = _check_kind(metadata)
    vocab = check_vocabulary(metadata)
    dimensions = read_dimensions(metadata, architecture, tensors, vocab)
    file_type = metadata.count("general.file_type")
    return GgufHeader(
        architecture=architecture,
        name=metadata.text("general.name") or "",
        vocab=vocab,
        parameters=sum(tensor.numbers for tensor in tensors.values()),
        file_type=None if file_type is None else FILE_TYPES.get(file_type),
        has_chat_template=bool(metadata.text("tokenizer.chat_template")),
        size_bytes=size,
        embeds=bool(metadata.count(f"{architecture}.pooling_type")),
        **dimensions._asdict(),
    )


def _check_whole(metadata: Metadata, name: str) -> None:
    """That the file is not one of the parts that `llama-gguf-split` writes."""
    found = PART.fullmatch(name)
    parts = metadata.count("split.count") or (int(found[3]) if found else 1)
    if parts == 1:
        return
    number = metadata.count("split.no")
    if number is not None:
        number += 1
    elif found:
        number = int(found[2])
    raise Malformed(
        f"it is part {number or '?'} of {parts} of a split model, and has not the others in it",
        hint="import the folder with all of them, which joins them: edge models import FOLDER",
    )


def _check_kind(metadata: Metadata) -> str:
    """The architecture of a file that holds a whole language model."""
    architecture = metadata.text("general.architecture")
    if not architecture:
        raise Malformed("it does not say its general.architecture")
    what = metadata.text("general.type") or "model"
    if what != "model":
        raise Malformed(
            f"it is of the type {what[:64]!r}, not a model of its own",
            hint="a LoRA adapter is served with its model, as MODEL+ADAPTER",
        )
    if architecture not in ARCHITECTURES:
        raise Malformed(
            f"llama.cpp has no language model architecture {architecture[:64]!r}",
            hint="choose another model, or update the appliance",
        )
    return architecture
