"""Writes small models with random weights of architectures that cannot be fetched for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

VOCABULARY, WIDTH, LAYERS = 96, 64, 6
HEAD, HEADS, KV_HEADS = 16, 4, 2
WINDOW = 32
INNER, STATE, KERNEL, RANK = 128, 8, 4, 4

Tensor = tuple[str, npt.NDArray[np.float32]]


def sliding_window(path: Path) -> Path:
    """A Gemma 3: of six layers one attends to all tokens, the others to the last `WINDOW`."""
    writer = _writer(path, "gemma3")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_feed_forward_length(WIDTH)
    writer.add_sliding_window(WINDOW)
    return _finish(writer, _attention_layers())


def recurrent(path: Path) -> Path:
    """A Mamba: all that it knows of a text is one state, which cannot go back."""
    writer = _writer(path, "mamba")
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    return _finish(writer, _state_layers())


def confident(path: Path, source: Path) -> Path:
    """A Llama with the vocabulary of another model; it is sure of what it says and never right."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_feed_forward_length(WIDTH)
    vocabulary = _copy_vocabulary(writer, source)
    foreign = ("post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm")
    layers = ((name, data) for name, data in _attention_layers() if not name.endswith(foreign))
    return _finish(writer, layers, vocabulary, np.full(WIDTH, 40.0))


def _copy_vocabulary(writer: gguf.GGUFWriter, source: Path) -> int:
    """Returns how many tokens it has."""
    fields = gguf.GGUFReader(source).fields
    for name, field in fields.items():
        if name.startswith("tokenizer.ggml."):
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], *kinds[1:2])
    return len(fields["tokenizer.ggml.tokens"].data)


def _writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(3, VOCABULARY))])
    writer.add_token_scores([0.0] * VOCABULARY)
    special = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_token_types([*special, *[gguf.TokenType.NORMAL] * (VOCABULARY - 3)])
    return writer


def _finish(
    writer: gguf.GGUFWriter,
    layers: Iterator[Tensor],
    vocabulary: int = VOCABULARY,
    norm: npt.NDArray[np.float64] | None = None,
) -> Path:
    path = writer.path
    assert path is not None
    head = _random(0, vocabulary, WIDTH)
    last = np.ones(WIDTH) if norm is None else norm
    for name, data in [("token_embd", head), ("output_norm", last), *layers]:
        suffix = "" if name.endswith((".bias", "ssm_a", "ssm_d")) else ".weight"
        writer.add_tensor(name + suffix, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _random(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    size = shape[-1] ** -0.5
    return np.random.default_rng(seed).normal(0, 1.5 * size, shape).astype(np.float32)


def _attention_layers() -> Iterator[Tensor]:
    shapes = {
        "attn_q": (HEADS * HEAD, WIDTH),
        "attn_k": (KV_HEADS * HEAD, WIDTH),
        "attn_v": (KV_HEADS * HEAD, WIDTH),
        "attn_output": (WIDTH, HEADS * HEAD),
        "ffn_gate": (WIDTH, WIDTH),
        "ffn_up": (WIDTH, WIDTH),
        "ffn_down": (WIDTH, WIDTH),
    }
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    for layer in range(LAYERS):
        for at, (name, shape) in enumerate(shapes.items()):
            yield f"blk.{layer}.{name}", _random(100 * layer + at + 1, *shape)
        for name in norms:
            yield f"blk.{layer}.{name}", np.ones(WIDTH, np.float32)
        for name in ("attn_q_norm", "attn_k_norm"):
            yield f"blk.{layer}.{name}", np.ones(HEAD, np.float32)


def _state_layers() -> Iterator[Tensor]:
    shapes = {
        "ssm_in": (2 * INNER, WIDTH),
        "ssm_conv1d": (INNER, KERNEL),
        "ssm_conv1d.bias": (INNER,),
        "ssm_x": (RANK + 2 * STATE, INNER),
        "ssm_dt": (INNER, RANK),
        "ssm_dt.bias": (INNER,),
        "ssm_d": (INNER,),
        "ssm_out": (WIDTH, INNER),
    }
    for layer in range(LAYERS):
        for at, (name, shape) in enumerate(shapes.items()):
            yield f"blk.{layer}.{name}", _random(100 * layer + at + 1, *shape)
        yield f"blk.{layer}.attn_norm", np.ones(WIDTH, np.float32)
        yield f"blk.{layer}.ssm_a", -np.abs(_random(100 * layer + 50, INNER, STATE)) - 0.1
