"""Writes LoRA adapters for tests, and what they make of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]
TARGETS = ("attn_q.weight", "attn_v.weight", "ffn_down.weight")
ALPHA, RANK = 8.0, 4


def write_adapter(
    path: Path,
    base: Path,
    seed: int = 1,
    *,
    targets: tuple[str, ...] = TARGETS,
    architecture: str | None = None,
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    """One for the targets in all layers of the base."""
    reader = gguf.GGUFReader(base)
    said = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture or str(said))
    writer.add_name("tiny adapter")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for tensor in reader.tensors:
        if tensor.name.endswith(targets):
            a, b = matrices(tensor, seed)
            writer.add_tensor(f"{tensor.name}.lora_a", a)
            writer.add_tensor(f"{tensor.name}.lora_b", b)
    if extra is not None:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def matrices(tensor: gguf.ReaderTensor, seed: int) -> tuple[Weights, Weights]:
    """Shapes (rank, in) and (out, rank)."""
    wide, high = (int(size) for size in tensor.shape)
    chance = np.random.default_rng([seed, *tensor.name.encode()])
    a = chance.normal(0, wide**-0.5, (RANK, wide)).astype(np.float32)
    return a, chance.normal(0, 0.5, (high, RANK)).astype(np.float32)


def write_merged(path: Path, base: Path, seed: int = 1, scale: float = 1.0) -> Path:
    """The base with the changes in its own weights (F32): W + scale · alpha/rank · B·A."""
    path.write_bytes(base.read_bytes())
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.name.endswith(TARGETS):
            a, b = matrices(tensor, seed)
            tensor.data[:] += scale * ALPHA / RANK * (b @ a)
    reader.data.flush()
    return path
