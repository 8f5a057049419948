"""Writes small GGUF files, right and wrong, for the tests of the model store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

Extra = Callable[[gguf.GGUFWriter], None]


def write_model(
    path: Path,
    architecture: str = "llama",
    *,
    layers: int = 2,
    embedding: int = 64,
    heads: int | list[int] = 4,
    kv_heads: int | list[int] = 2,
    key_length: int | None = None,
    context: int = 256,
    tokens: int = 40,
    numbers: int = 256,
    extra: Extra | None = None,
) -> Path:
    """A file that passes the check, with `numbers` F32 weights; `extra` adds to it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_file_type(0)
    writer.add_context_length(context)
    writer.add_block_count(layers)
    writer.add_embedding_length(embedding)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if key_length is not None:
        writer.add_key_length(key_length)
        writer.add_value_length(key_length)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{index}" for index in range(tokens)])
    writer.add_token_types([1] * tokens)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_tensor("token_embd.weight", np.arange(numbers, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
    if extra:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
