"""The bodies and answers of /v1/embeddings, as OpenAI's API has them.

Pure. A vector goes out as base64 of its float32 numbers, as the SDK asks for it, or as JSON's
numbers, which are ten times the work.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from edge.errors import InvalidRequest
from edge.openai.render import origin_of
from edge.openai.schema import RequestBody, TokenId
from edge.tensors import Inferred, TextWork, Vectors

T = TypeVar("T", str, list[int])

MOST_INPUTS = 2048
"""OpenAI's limit of one request."""

MOST_TOKENS = 131_072
"""Token ids of one text: more than any model reads."""

AT_ONCE = 32
"""Vectors that are written as JSON's numbers in one go: about a millisecond of the event loop."""


class EmbeddingBody(RequestBody, kw_only=True):
    """POST /v1/embeddings

    input_type: what the texts are, for models that want to be told (`text.prefixes` of their
    manifest).
    """

    input: str | Annotated[list[str | TokenId | list[TokenId]], Meta(max_length=MOST_TOKENS)]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    input_type: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


def embedding_work(body: EmbeddingBody) -> TextWork:
    """Raises `InvalidRequest` for what is no list of texts, nor of token ids."""
    return TextWork(_texts(body.input), body.dimensions, body.input_type)


def embedding_answer(body: EmbeddingBody, inferred: Inferred) -> Iterator[bytes]:
    """The answer in pieces, each soon made, so that others have their turn between them. With where
    it is from, which is not of OpenAI's API."""
    vectors = inferred.result
    assert isinstance(vectors, Vectors)
    yield b'{"object":"list","data":['
    size = vectors.width * 4
    count = len(vectors.data) // size
    data = memoryview(vectors.data)
    for start in range(0, count, AT_ONCE):
        some = range(start, min(start + AT_ONCE, count))
        rows = [data[at * size : (at + 1) * size] for at in some]
        if body.encoding_format == "base64":
            written = [b'"%b"' % b2a_base64(row, newline=False) for row in rows]
        else:
            written = [msgspec.json.encode(np.frombuffer(row, "<f4").tolist()) for row in rows]
        entries = (
            b'{"object":"embedding","index":%d,"embedding":%b}' % entry
            for entry in zip(some, written, strict=True)
        )
        yield (b"," if start else b"") + b",".join(entries)
    name = msgspec.json.encode(body.model or inferred.model)
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (vectors.tokens, vectors.tokens)
    origin = msgspec.json.encode(origin_of(inferred))
    yield b'],"model":%b,"usage":%b,"edge":%b}' % (name, usage, origin)


def _texts(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The four forms of OpenAI's field: text, texts, tokens, lists of tokens."""
    if isinstance(given, str):
        return [_full(given, "input")]
    if not given:
        raise InvalidRequest("input is empty", param="input")
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    if len(given) > MOST_INPUTS:
        raise InvalidRequest(
            f"input has {len(given)} texts, and {MOST_INPUTS} are taken at once", param="input"
        )
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) == len(given):
        return [_full(text, f"input[{at}]") for at, text in enumerate(texts)]
    lists = [item for item in given if isinstance(item, list)]
    if len(lists) == len(given):
        return [_full(item, f"input[{at}]") for at, item in enumerate(lists)]
    raise InvalidRequest(
        "input is a text, or texts, or token ids, or lists of them, not a mixture", param="input"
    )


def _full(item: T, param: str) -> T:
    if not item:
        raise InvalidRequest(f"{param} is empty", param=param)
    return item
