"""The tokenizer in a GGUF file: that all is there which its kind needs, and nothing that makes
llama.cpp end the process.

Follows what llama.cpp reads: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

from collections import Counter

from edge.modelstore.metadata import FLOAT32, INT32, STRING, Array, Metadata
from edge.modelstore.window import Malformed

_PREFIX = "tokenizer.ggml."
_KINDS = frozenset(
    ("llama", "bert", "gpt2", "hybriddna", "whitespace", "t5", "rwkv", "plamo2", "gemma4")
)
_WITH_MERGES = frozenset(("gpt2", "hybriddna", "whitespace", "gemma4"))
_WITH_SCORES = frozenset(("llama", "t5", "plamo2"))
_WITHOUT_MERGES = "kimi-k2"  # a pre-tokenizer that goes by tokens alone

_MOST_TOKENS = 1 << 20


def check_vocabulary(metadata: Metadata) -> int:
    """How many tokens the file has. Raises `Malformed` where they are of no use."""
    kind = metadata.text(_PREFIX + "model")
    tokens = metadata.array(_PREFIX + "tokens")
    if kind in (None, "", "no_vocab", "none") or tokens is None:
        raise Malformed("it has no tokenizer")
    if kind is None or kind not in _KINDS:
        raise Malformed(f"llama.cpp has no tokenizer {kind[:64]!r}")
    if tokens.kind != STRING or not 0 < tokens.length <= _MOST_TOKENS:
        raise Malformed(f"its tokenizer has {tokens.length} tokens of the type {tokens.kind}")
    _check_per_token(metadata, "scores", (FLOAT32, INT32), tokens.length, kind in _WITH_SCORES)
    _check_per_token(metadata, "token_type", (INT32,), tokens.length, needed=False)
    if kind in _WITH_MERGES and metadata.text(_PREFIX + "pre") != _WITHOUT_MERGES:
        _check_merges(metadata.array(_PREFIX + "merges"))
    _check_texts(metadata.texts(tokens), kind)
    return tokens.length


def _check_per_token(
    metadata: Metadata, name: str, kinds: tuple[int, ...], tokens: int, needed: bool
) -> None:
    array = metadata.array(_PREFIX + name)
    if array is None:
        if needed:
            raise Malformed(f"its tokenizer has no {_PREFIX}{name}")
        return
    # Older llama.cpp indexed these by token without looking at their type or length.
    if array.kind not in kinds or array.length < tokens:
        raise Malformed(f"{_PREFIX}{name} does not fit its {tokens} tokens")


def _check_merges(merges: Array | None) -> None:
    if merges is None or merges.kind != STRING:
        raise Malformed(f"its tokenizer has no {_PREFIX}merges")


def _check_texts(texts: list[bytes], kind: str) -> None:
    known = set(texts)
    # llama.cpp names empty tokens by their number, so that more than one may be empty.
    if len(known - {b""}) != sum(map(bool, texts)):
        twice = next(text for text, times in Counter(texts).items() if text and times > 1)
        raise Malformed(f"its tokenizer has the token {twice[:32]!r} twice")
    if kind == "llama":
        # Any text with a byte that has no token would end the worker, with all requests in it.
        for byte in range(256):
            if b"<0x%02X>" % byte not in known and bytes([byte]) not in known:
                raise Malformed(f"its tokenizer has no token for the byte 0x{byte:02X}")
