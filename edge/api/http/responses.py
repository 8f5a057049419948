"""The routes of OpenAI's newer API: /v1/responses, in the foreground and in the background."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response as HttpResponse

from edge.api.http.answers import answer_headers
from edge.api.http.durable import DurableDoor
from edge.api.http.errors import error_json
from edge.api.http.generate import read
from edge.api.http.openapi import json_body
from edge.api.http.stream import EventStream, while_connected
from edge.errors import EdgeError, InternalError
from edge.openai import ask
from edge.openai.collect import collect
from edge.openai.response import Response, new_response
from edge.openai.response_stream import ResponseEvents
from edge.openai.schema import ResponseBody
from edge.service import Service
from edge.types import Part, Trail

logger = logging.getLogger(__name__)


def response_routes(service: Service, durable: DurableDoor) -> APIRouter:
    router = APIRouter(tags=["generate"])

    @router.post("/v1/responses", openapi_extra=json_body("ResponseBody"))
    async def create(http: Request) -> HttpResponse:
        """Answer a conversation; with `background: true` it is kept, and asked for later."""
        body = await read(http, service, ResponseBody)
        return await durable.respond(http, body, lambda: _live(service, http, body))

    @router.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str) -> HttpResponse:
        """What has become of a request that was kept, and its answer once there is one."""
        return _json(await durable.find(response_id))

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(response_id: str) -> HttpResponse:
        """Stop it, wherever it is; what has ended stays as it is."""
        return _json(await durable.cancel(response_id))

    return router


async def _live(service: Service, http: Request, body: ResponseBody) -> HttpResponse:
    request, shape = ask.ask(body, http.state.request_id)
    trail, created = Trail(), int(time.time())
    source = service.generate(request, "http", trail)
    if body.stream:
        first = await while_connected(http, source.__anext__())
        response = new_response(request.id, created, request.model or trail.model, body)
        events = _events(ResponseEvents(response), source, first)
        return EventStream(events, source, answer_headers(trail))
    whole = collect(source, request, shape, trail=trail, created=created)
    answer = await while_connected(http, whole)
    response = new_response(request.id, created, answer.model, body)
    response.finish(answer)
    return _json(response, answer_headers(trail))


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
