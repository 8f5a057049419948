"""The routes of OpenAI's newer API: /v1/responses, in the foreground and in the background."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response as HttpResponse

from edge.api.http.answers import answer_headers, first_parts
from edge.api.http.durable import DurableDoor
from edge.api.http.errors import error_json
from edge.api.http.generate import read
from edge.api.http.openapi import json_body
from edge.api.http.stream import EventStream, while_connected
from edge.errors import EdgeError, InternalError
from edge.openai.asked import Asked
from edge.openai.collect import collect
from edge.openai.response import Response, new_response
from edge.openai.response_stream import ResponseEvents
from edge.openai.schema import ResponseBody
from edge.service import Service
from edge.types import Part

logger = logging.getLogger(__name__)


def response_routes(service: Service, durable: DurableDoor) -> APIRouter:
    router = APIRouter(tags=["generate"])

    @router.post("/v1/responses", openapi_extra=json_body("ResponseBody"))
    async def create(http: Request) -> HttpResponse:
        """Answer a conversation; with `background: true` it is kept, and asked for later."""
        body = await read(http, service, ResponseBody)
        return await durable.respond(http, body, lambda asked: _live(http, body, asked))

    @router.get("/v1/responses/{response_id}")
    async def retrieve(http: Request, response_id: str) -> HttpResponse:
        """What has become of a request that was kept, and its answer once there is one."""
        return _json(await durable.find(response_id, http))

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(http: Request, response_id: str) -> HttpResponse:
        """Stop it, wherever it is; what has ended stays as it is."""
        return _json(await durable.cancel(response_id, http))

    return router


async def _live(http: Request, body: ResponseBody, asked: Asked) -> HttpResponse:
    if body.stream:
        first = await while_connected(http, first_parts(asked))
        response = new_response(asked.request.id, asked.created, asked.model, body)
        events = _events(ResponseEvents(response, asked.trail), asked.source, first)
        return EventStream(events, asked.source, answer_headers(asked.trail))
    answer = await while_connected(http, collect(asked))
    response = new_response(asked.request.id, asked.created, answer.model, body)
    response.finish(answer)
    return _json(response, answer_headers(asked.trail))


async def _events(
    events: ResponseEvents, source: AsyncGenerator[list[Part], None], first: list[Part]
) -> AsyncGenerator[bytes, None]:
    try:
        yield events.opening() + events.pieces(first)
        async with aclosing(source):
            async for parts in source:
                yield events.pieces(parts)
    except EdgeError as error:
        yield b"data: " + error_json(error) + b"\n\n"
    except Exception:
        logger.exception("a stream ended in the middle")
        yield b"data: " + error_json(InternalError("the appliance failed")) + b"\n\n"


def _json(response: Response, headers: dict[str, str] | None = None) -> HttpResponse:
    body = msgspec.json.encode(response)
    return HttpResponse(body, headers=headers, media_type="application/json")
