"""A request to a chain as callers send it and as it is kept, and its answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edge.errors import InvalidRequest
from edge.openai.parse import decode_options
from edge.openai.pictures import picture_bytes
from edge.openai.render import Origin, UsageBody
from edge.openai.schema import EdgeOptions


class ChainBody(msgspec.Struct, omit_defaults=True):
    """picture: encoded, as it came. fields: what the caller sent along. options: its `edge`."""

    picture: bytes
    fields: dict[str, Any] = {}
    options: EdgeOptions = msgspec.field(default_factory=EdgeOptions)


class ChainAnswer(msgspec.Struct):
    """model: the one that wrote the text, as it was asked for. sighting: what the other one saw."""

    id: str
    created: int
    chain: str
    model: str
    text: str
    finish_reason: str
    usage: UsageBody
    sighting: dict[str, Any]
    edge: Origin
    object: str = "chain.report"


def body_of_json(raw: bytes) -> ChainBody:
    """`{"image": …}` with the chain's fields beside it. Raises `InvalidRequest`."""
    try:
        whole = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(whole, dict):
        raise InvalidRequest("the body is an object")
    return body_of_fields(whole)


def body_of_fields(fields: Mapping[str, Any]) -> ChainBody:
    """Of a decoded object. Raises `InvalidRequest`."""
    rest = dict(fields)
    image, options = rest.pop("image", None), rest.pop("edge", None)
    if image is None:
        raise InvalidRequest("`image`: missing", param="image")
    if not isinstance(image, str):
        raise InvalidRequest("`image` is text", param="image")
    return ChainBody(picture_bytes(image), rest, decode_options(options))


def encode(body: ChainBody) -> bytes:
    """As it is kept: MessagePack, so that a picture takes the bytes it has."""
    return msgspec.msgpack.encode(body)


def decode(raw: bytes) -> ChainBody:
    return msgspec.msgpack.decode(raw, type=ChainBody)
