"""The sizes of a model file that decide how much memory it takes."""

from __future__ import annotations

from edge.engine.footprint import Shape
from edge.modelstore.gguf import GgufHeader

_AMX_GROWTH = {"Q8_0": 38 / 34}
"""ggml's tiles for AMX carry 4 bytes more for each block of 34."""


def shape_of(header: GgufHeader, amx: bool) -> Shape:
    """amx: whether weights are repacked for Intel's AMX."""
    growth = _AMX_GROWTH.get(header.file_type or "", 1.0) if amx else 1.0
    return Shape(
        weights_bytes=round(header.size_bytes * growth),
        kv_values=header.kv_values or 0,
        layers=header.layers,
        width=header.embedding,
        inner=4 * header.embedding if header.feed_forward is None else header.feed_forward,
        heads=header.heads or 0,
        vocab=header.vocab,
        trained=header.context,
        embeds=header.embeds,
    )
