"""Models of the sizes that real families have, for what depends on sizes alone.

`write` makes the header: all weights are the zeros that a sparse file reads as, so that a model of
gigabytes takes a few megabytes of disk. `randomize` makes random weights of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

Kind = gguf.GGMLQuantizationType
FILE_TYPES = {
    Kind.F16: gguf.LlamaFileType.MOSTLY_F16,
    Kind.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    Kind.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    Kind.Q4_K: gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
Tensor = tuple[str, tuple[int, ...]]


class Family(NamedTuple):
    """The sizes of a model. inner: width of its feed-forward part. tied: no output matrix."""

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    context: int
    tied: bool = False


FAMILIES = {
    "tinyllama-1.1b": Family("llama", 22, 2048, 32, 4, 64, 5632, 32000, 2048),
    "phi-3-mini": Family("phi3", 32, 3072, 32, 32, 96, 8192, 32064, 4096),
    "gemma-2b": Family("gemma", 18, 2048, 8, 1, 256, 16384, 256000, 8192, tied=True),
    "gemma-2-2b": Family("gemma2", 26, 2304, 8, 4, 256, 9216, 256000, 8192, tied=True),
    "gemma-3-270m": Family("gemma3", 18, 640, 4, 1, 256, 2048, 262144, 32768, tied=True),
    "qwen2.5-0.5b": Family("qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, tied=True),
}


def write(path: Path, family: Family, kind: Kind) -> Path:
    """A file of the family with all matrices of one type."""
    writer = gguf.GGUFWriter(path, family.architecture)
    writer.add_file_type(FILE_TYPES[kind])
    add_sizes(writer, family)
    _add_vocabulary(writer, family.vocabulary)
    size = 0
    for name, shape in tensors(family):
        stored = Kind.F32 if len(shape) == 1 else kind
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        tensor_bytes = math.prod(shape) // block * block_bytes
        writer.add_tensor_info(f"{name}.weight", shape, np.dtype(np.float32), tensor_bytes, stored)
        size += -(-tensor_bytes // writer.data_alignment) * writer.data_alignment
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    data = -(-path.stat().st_size // writer.data_alignment) * writer.data_alignment
    os.truncate(path, data + size)
    return path


SCALES = {Kind.Q4_0: 1, Kind.Q8_0: 1, Kind.Q4_K: 2}
"""Half-precision numbers that a block begins with; all bits of the rest may be anything."""

BLOCKS_AT_ONCE = 1 << 20


def randomize(path: Path) -> None:
    """Random weights, but for those of norms, which are 1."""
    generator = np.random.default_rng(1)
    file = np.memmap(path, np.uint8, "r+")
    for tensor in gguf.GGUFReader(path).tensors:
        place = file[tensor.data_offset :][: int(tensor.n_bytes)]
        if tensor.tensor_type is Kind.F32:
            place.view(np.float32)[:] = 1.0
            continue
        blocks = place.reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1])
        scales = 2 * SCALES[tensor.tensor_type]
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            some = blocks[start : start + BLOCKS_AT_ONCE]
            some[:] = generator.integers(0, 256, some.shape, np.uint8)
            some[:, :scales] = np.full(SCALES[tensor.tensor_type], 1e-3, np.float16).view(np.uint8)
    file.flush()


def add_sizes(writer: gguf.GGUFWriter, family: Family) -> None:
    writer.add_context_length(family.context)
    writer.add_embedding_length(family.width)
    writer.add_block_count(family.layers)
    writer.add_feed_forward_length(family.inner)
    writer.add_head_count(family.heads)
    writer.add_head_count_kv(family.kv_heads)
    writer.add_key_length(family.head)
    writer.add_value_length(family.head)
    writer.add_rope_dimension_count(family.head)
    writer.add_layer_norm_rms_eps(1e-6)
    if family.architecture in ("gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(min(4096, family.context // 2))
    if family.architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    writer.add_tokenizer_model("llama")
    special = ["<unk>", "<s>", "</s>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [f"w{number}" for number in range(size - len(special) - len(pieces))]
    writer.add_token_list([*special, *pieces, *words])
    writer.add_token_scores([0.0] * size)
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * len(pieces) + [gguf.TokenType.NORMAL] * len(words)
    writer.add_token_types(types)


def tensors(family: Family) -> Iterator[Tensor]:
    """Names and shapes, as llama.cpp asks for them."""
    width, inner, queries = family.width, family.inner, family.heads * family.head
    shared = family.kv_heads * family.head
    yield "token_embd", (family.vocabulary, width)
    if not family.tied:
        yield "output", (family.vocabulary, width)
    yield "output_norm", (width,)
    together = family.architecture == "phi3"
    each: list[Tensor] = [("attn_norm", (width,)), ("ffn_norm", (width,))]
    if together:
        each += [("attn_qkv", (queries + 2 * shared, width)), ("ffn_up", (2 * inner, width))]
    else:
        each += [("attn_q", (queries, width)), ("attn_k", (shared, width))]
        each += [("attn_v", (shared, width))]
        each += [("ffn_gate", (inner, width)), ("ffn_up", (inner, width))]
    each += [("attn_output", (width, queries)), ("ffn_down", (width, inner))]
    if family.architecture in ("gemma2", "gemma3"):
        each += [("post_attention_norm", (width,)), ("post_ffw_norm", (width,))]
    if family.architecture == "gemma3":
        each += [("attn_q_norm", (family.head,)), ("attn_k_norm", (family.head,))]
    for layer in range(family.layers):
        for name, shape in each:
            yield f"blk.{layer}.{name}", shape
