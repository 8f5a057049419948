"""The routes that generate text: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from edge.api.http.answers import Answering
from edge.api.http.body import read_body
from edge.api.http.durable import DurableDoor
from edge.api.http.openapi import json_body
from edge.openai.asked import Asked
from edge.openai.parse import decode, merge_headers
from edge.openai.schema import ChatBody, CompletionBody, RequestBody
from edge.service import Service

T = TypeVar("T", bound=RequestBody)


def generate_routes(service: Service, durable: DurableDoor) -> APIRouter:
    router = APIRouter(tags=["generate"])

    async def respond(http: Request, body: ChatBody | CompletionBody) -> Response:
        return await durable.respond(http, body, lambda asked: live(http, body, asked))

    async def live(http: Request, body: ChatBody | CompletionBody, asked: Asked) -> Response:
        if not body.stream:
            return await Answering(asked).whole(http)
        options = body.stream_options
        return await Answering(asked).stream(http, options is not None and options.include_usage)

    @router.post("/v1/chat/completions", openapi_extra=json_body("ChatBody"))
    async def chat_completions(http: Request) -> Response:
        """Answer a chat, as OpenAI's API does; with `stream: true` as server-sent events."""
        return await respond(http, await read(http, service, ChatBody))

    @router.post("/v1/completions", openapi_extra=json_body("CompletionBody"))
    async def completions(http: Request) -> Response:
        """Continue a text, as OpenAI's older API does."""
        return await respond(http, await read(http, service, CompletionBody))

    return router


async def read(http: Request, service: Service, body: type[T]) -> T:
    """The request's body with its `X-Edge-…` headers merged in, checked."""
    limit = int(service.config.limits.max_body_mb * 1024 * 1024)
    raw = await read_body(http, limit)
    found = await service.aside.run(len(raw), decode, raw, body)
    merge_headers(found, http.headers)
    return found
