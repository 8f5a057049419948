"""The sizes that a GGUF file gives for its model: sane by themselves, and those of its tensors.

Where llama.cpp checks with an assertion, a wrong size ends the process, so it is looked for here:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-model.cpp, `load_hparams`.
"""

from __future__ import annotations

from typing import NamedTuple

from edge.modelstore.metadata import Metadata
from edge.modelstore.tensors import Tensors, blocks_of
from edge.modelstore.window import Malformed

# llama.cpp's own limits.
_MOST_LAYERS = 512
_MOST_EXPERTS = 1_024

# Far above any real model.
_MOST_CONTEXT = 1 << 28
_MOST_WIDTH = 1 << 20

_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_EMBEDDING = "token_embd.weight"


class Dimensions(NamedTuple):
    """context: tokens it was trained for. embedding: width of the hidden state.

    kv_values: numbers that the KV cache holds for each token, all layers together; an upper bound
        for sliding-window models, None where the file does not say (recurrent models).
    heads, feed_forward: query heads and width of the feed-forward part, of the largest layer; None
        where the file does not say.
    """

    context: int
    layers: int
    embedding: int
    kv_values: int | None
    heads: int | None
    feed_forward: int | None


def read_dimensions(
    metadata: Metadata, architecture: str, tensors: Tensors, vocab: int
) -> Dimensions:
    """Check and return them. vocab: tokens of the tokenizer. Raises `Malformed`."""
    context = metadata.needed(f"{architecture}.context_length", _MOST_CONTEXT)
    layers = metadata.needed(f"{architecture}.block_count", _MOST_LAYERS)
    embedding = metadata.needed(f"{architecture}.embedding_length", _MOST_WIDTH)
    _check_blocks(metadata, architecture, tensors, layers)
    _check_embedding(metadata, architecture, tensors, embedding, vocab)
    _check_experts(metadata, architecture, layers)
    scaling = metadata.text(f"{architecture}.rope.scaling.type")
    if scaling is not None and scaling not in _ROPE_SCALINGS:
        raise Malformed(f"{architecture}.rope.scaling.type is {scaling[:64]!r}")
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon"):
        epsilon = metadata.real(key := f"{architecture}.attention.{name}")
        if epsilon is not None and epsilon < 0:
            raise Malformed(f"{key} is {epsilon}")
    kv_values = _kv_values(metadata, f"{architecture}.attention.", layers, embedding)
    heads = _largest(metadata, f"{architecture}.attention.head_count", layers)
    feed_forward = _largest(metadata, f"{architecture}.feed_forward_length", layers)
    return Dimensions(context, layers, embedding, kv_values, heads, feed_forward)


def _largest(metadata: Metadata, key: str, layers: int) -> int | None:
    numbers = metadata.each_layer(key, layers, _MOST_WIDTH)
    return None if numbers is None else max(numbers)


def _check_blocks(metadata: Metadata, architecture: str, tensors: Tensors, layers: int) -> None:
    found = blocks_of(tensors)
    if max(found, default=0) >= layers:
        raise Malformed(
            f"{architecture}.block_count is {layers}, and it has tensors of block {max(found)}"
        )
    # Layers that predict several tokens at once may be left out, and Deci has layers of nothing.
    ahead = metadata.number(f"{architecture}.nextn_predict_layers", 0, layers) or 0
    missing = set(range(layers - ahead)) - found
    if missing and architecture != "deci":
        raise Malformed(
            f"{architecture}.block_count is {layers}, and it has no tensors of block {min(missing)}"
        )


def _check_embedding(
    metadata: Metadata, architecture: str, tensors: Tensors, embedding: int, vocab: int
) -> None:
    tensor = tensors.get(_EMBEDDING) or tensors.get("output.weight")
    if tensor is None:
        raise Malformed(f"it has no tensor {_EMBEDDING!r}")
    if tensor.shape != (embedding, vocab):
        raise Malformed(
            f"its embeddings have the shape {list(tensor.shape)}, "
            f"and it has {vocab} tokens of {architecture}.embedding_length {embedding}"
        )
    said = metadata.number(f"{architecture}.vocab_size", 0, vocab + _MOST_WIDTH)
    if said not in (None, vocab):
        raise Malformed(f"{architecture}.vocab_size is {said}, and it has {vocab} tokens")


def _check_experts(metadata: Metadata, architecture: str, layers: int) -> None:
    experts = metadata.number(f"{architecture}.expert_count", 0, _MOST_EXPERTS) or 0
    used = metadata.each_layer(f"{architecture}.expert_used_count", layers, experts) or [0]
    if experts and not max(used):
        raise Malformed(f"{architecture}.expert_used_count is 0 of {experts}")


def _kv_values(metadata: Metadata, prefix: str, layers: int, embedding: int) -> int | None:
    heads = metadata.each_layer(prefix + "head_count", layers, _MOST_WIDTH)
    if heads is None or not any(heads):
        return None
    width = embedding // max(heads)
    kv_heads = metadata.each_layer(prefix + "head_count_kv", layers, _MOST_WIDTH) or heads
    for count, kv_count in zip(heads, kv_heads, strict=True):
        if kv_count and count % kv_count:
            raise Malformed(f"{prefix}head_count_kv is {kv_count}, which does not divide {count}")
    keys = metadata.number(prefix + "key_length", 1, _MOST_WIDTH)
    values = metadata.number(prefix + "value_length", 1, _MOST_WIDTH)
    if (keys is None or values is None) and (not width or embedding % max(heads)):
        raise Malformed(f"{prefix}head_count is {max(heads)}, which does not divide {embedding}")
    return sum(kv_heads) * ((keys or width) + (values or width))
