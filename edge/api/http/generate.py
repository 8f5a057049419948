"""The routes that generate text: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from edge.api.http.answers import Answering, Chat, Completion, Shape
from edge.api.http.body import read_body
from edge.api.http.openapi import json_body
from edge.api.http.parse import chat_request, completion_request, decode
from edge.api.http.schema import ChatBody, CommonBody, CompletionBody
from edge.service import Service
from edge.types import Request as ServiceRequest


def generate_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["generate"])
    limit = int(service.config.limits.max_body_mb * 1024 * 1024)

    async def respond(
        http: Request, body: CommonBody, request: ServiceRequest, shape: Shape
    ) -> Response:
        answering = Answering(service, request, shape)
        if not body.stream:
            return await answering.whole(http)
        options = body.stream_options
        return await answering.stream(http, options is not None and options.include_usage)

    @router.post("/v1/chat/completions", openapi_extra=json_body("ChatBody"))
    async def chat_completions(http: Request) -> Response:
        """Answer a chat, as OpenAI's API does; with `stream: true` as server-sent events."""
        body = decode(await read_body(http, limit), ChatBody)
        request = chat_request(body, http.headers, http.state.request_id)
        return await respond(http, body, request, Chat(request))

    @router.post("/v1/completions", openapi_extra=json_body("CompletionBody"))
    async def completions(http: Request) -> Response:
        """Continue a text, as OpenAI's older API does."""
        body = decode(await read_body(http, limit), CompletionBody)
        request = completion_request(body, http.headers, http.state.request_id)
        return await respond(http, body, request, Completion(request))

    return router
