"""Pictures in requests, and what was seen in them in answers. Not of OpenAI's API. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.errors import InvalidRequest
from edge.openai.render import origin_of
from edge.openai.schema import Body, EdgeOptions, Unit
from edge.tensors import Inferred, PictureWork, Sighting

DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.ASCII | re.IGNORECASE)


class LookBody(Body, kw_only=True):
    """How to look at a picture, and whether to draw what was seen into it."""

    top_k: Annotated[int, Meta(ge=1, le=1000)] | None = None
    threshold: Unit | None = None
    draw: Literal["jpeg", "png"] | None = None


class PictureBody(LookBody, kw_only=True):
    """A picture for a model to look at; `image` is base64 or a `data:` URL of it."""

    image: str
    model: str | None = None
    edge: EdgeOptions | None = None


def picture_bytes(image: str, param: str = "image") -> bytes:
    """What a text of base64 or a `data:` URL holds. Raises `InvalidRequest`."""
    prefix = DATA_URL.match(image)
    encoded = image[prefix.end() if prefix else 0 :]
    if "\n" in encoded:  # many programs break its lines
        encoded = "".join(encoded.split())
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"`{param}` is base64 of an encoded picture, or a data: URL with it", param=param
        ) from None
    if not data:
        raise InvalidRequest(f"`{param}` is empty", param=param)
    return data


def picture_work(body: PictureBody) -> PictureWork:
    """Raises `InvalidRequest`."""
    return PictureWork(picture_bytes(body.image), body.top_k, body.threshold, body.draw)


def sighting_fields(sighting: Sighting) -> dict[str, Any]:
    """Ready for JSON: the lists that the model makes, and a drawn picture as base64."""
    fields: dict[str, Any] = msgspec.to_builtins(sighting)
    del fields["type"]
    return fields


def picture_answer(inferred: Inferred, number: str, created: int) -> dict[str, Any]:
    """The whole answer. number: of the request. created: epoch seconds."""
    assert isinstance(inferred.result, Sighting)
    return {
        "id": f"sight-{number}",
        "object": "sighting",
        "created": created,
        "model": inferred.model,
        "version": inferred.version,
        **sighting_fields(inferred.result),
        "seconds": round(inferred.seconds, 6),
        "edge": origin_of(inferred),
    }
