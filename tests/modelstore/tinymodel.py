"""Writes small GGUF files, right and wrong, for the tests of the model store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Extra = Callable[[gguf.GGUFWriter], None]

WIDTH, HEADS, KV_HEADS, INNER, LAYERS = 32, 4, 2, 48, 2


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
    template: str | None = "{{ messages[0].content }}",
    extra: Extra | None = None,
) -> Path:
    """A file that passes the check, with `numbers` F32 weights in a block; `extra` adds to it.

    llama.cpp would not load it: most of its tensors are missing.
    """
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
    writer.add_token_merges(["t o", "to k"])
    if template is not None:
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((tokens, embedding), dtype=np.float32))
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.arange(numbers, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
    if extra:
        extra(writer)
    return _finish(writer, path)


def write_loadable(path: Path) -> Path:
    """A llama of random weights, which llama.cpp loads and which can read any text."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("loadable")
    writer.add_file_type(0)
    writer.add_context_length(128)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefgh"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 9]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    for name, weights in _weights(len(tokens)):
        writer.add_tensor(f"{name}.weight", weights)
    return _finish(writer, path)


def _weights(vocabulary: int) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    chance = np.random.default_rng(7)
    head = WIDTH // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (KV_HEADS * head, WIDTH),
        "attn_v": (KV_HEADS * head, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    yield "token_embd", chance.normal(0, 0.2, (vocabulary, WIDTH)).astype(np.float32)
    yield "output_norm", np.ones(WIDTH, np.float32)
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}", chance.normal(0, 0.2, shape).astype(np.float32)
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}", np.ones(WIDTH, np.float32)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
