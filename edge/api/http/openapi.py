"""The OpenAPI document: FastAPI's, with the bodies that msgspec checks described in it."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from edge.kserve.schema import InferBody
from edge.openai.batch import BatchBody
from edge.openai.embeddings import EmbeddingBody
from edge.openai.pictures import PictureBody
from edge.openai.rerank import RerankBody
from edge.openai.schema import ChatBody, CompletionBody, ResponseBody

PLACE = "#/components/schemas/{name}"

BODIES = (
    *(BatchBody, ChatBody, CompletionBody, EmbeddingBody, InferBody),
    *(PictureBody, RerankBody, ResponseBody),
)


def json_body(name: str) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is the struct of that name."""
    schema = {"$ref": PLACE.format(name=name)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_bodies(app: FastAPI) -> None:
    """Make `app.openapi()` carry the schemas that `json_body` refers to."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            _, components = msgspec.json.schema_components(BODIES, ref_template=PLACE)
            document.setdefault("components", {}).setdefault("schemas", {}).update(components)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
