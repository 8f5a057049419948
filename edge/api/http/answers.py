"""From the service's pieces to an HTTP response, streamed or whole.

An error before the first token is a response with its status; after it, it is an event in the
stream, and the stream ends without `[DONE]`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from edge.api.http.errors import error_json
from edge.api.http.stream import EventStream, while_connected
from edge.errors import EdgeError, InternalError
from edge.openai import render
from edge.openai.asked import Asked
from edge.openai.collect import collect
from edge.types import Finished, Part, Trail, Usage

logger = logging.getLogger(__name__)


def answer_headers(trail: Trail) -> dict[str, str]:
    """Who answers, as response headers; of a stream that is known with the first piece."""
    return {
        "X-Edge-Route": trail.route,
        "X-Edge-Model": trail.model,
        "X-Edge-Attempts": str(len(trail.attempts)),
    }


async def first_parts(asked: Asked) -> list[Part]:
    """With the first token; what is refused raises before it."""
    return await asked.source.__anext__()


class Answering:
    """One HTTP request's answers on their way out."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.request = asked.request
        self.shape = asked.shape
        self.usages: dict[int, Usage] = {}

    async def whole(self, http: HttpRequest) -> Response:
        """The complete answer; a client that leaves before it cancels the work."""
        answer = await while_connected(http, collect(self.asked))
        headers = answer_headers(self.asked.trail)
        return Response(render.encode(answer), headers=headers, media_type="application/json")

    async def stream(self, http: HttpRequest, include_usage: bool) -> EventStream:
        """The answer as it comes. Waits for the first token, so that a refusal has a status."""
        first = await while_connected(http, first_parts(self.asked))
        headers = answer_headers(self.asked.trail)
        return EventStream(self._events(first, include_usage), self.asked.source, headers)

    async def _events(self, first: list[Part], include_usage: bool) -> AsyncGenerator[bytes, None]:
        offsets = [0] * self.request.answers
        try:
            async with aclosing(self.asked.source) as source:
                yield self._openings(include_usage) + self._chunks(first, offsets, include_usage)
                async for parts in source:
                    yield self._chunks(parts, offsets, include_usage)
            if include_usage:
                last = self._answer(self.shape.chunk_object, [])
                last.usage = self._usage()
                last.edge = render.origin(self.asked.trail, self.usages.values())
                yield render.event(last)
            yield render.DONE
        except EdgeError as error:
            yield b"data: " + error_json(error) + b"\n\n"
        except Exception:
            logger.exception("a stream ended in the middle")
            yield b"data: " + error_json(InternalError("the appliance failed")) + b"\n\n"

    def _openings(self, include_usage: bool) -> bytes:
        choices = [self.shape.opening(index) for index in range(self.request.answers)]
        return b"".join(self._chunk(choice, include_usage) for choice in choices if choice)

    def _chunks(self, parts: list[Part], offsets: list[int], include_usage: bool) -> bytes:
        data = b""
        for part in parts:
            index, event = part.index, part.event
            if isinstance(event, Finished):
                self.usages[index] = event.usage
                timings = event.usage if self.request.answers == 1 else None
                data += self._chunk(self.shape.closing(index, event), include_usage, timings)
            elif event.text or event.logprobs or event.calls:
                choice = self.shape.piece(index, event, offsets[index])
                offsets[index] += len(event.text)
                data += self._chunk(choice, include_usage)
        return data

    def _chunk(
        self, choice: dict[str, Any], include_usage: bool, timings: Usage | None = None
    ) -> bytes:
        answer = self._answer(self.shape.chunk_object, [choice])
        if include_usage:
            answer.usage = None
        if timings is not None:
            answer.timings = render.timings(timings)
            answer.edge = render.origin(self.asked.trail, [timings])
        return render.event(answer)

    def _answer(self, kind: str, choices: list[dict[str, Any]]) -> render.Answer:
        asked = self.asked
        return render.Answer(self.shape.id, kind, asked.created, asked.model, choices)

    def _usage(self) -> render.UsageBody:
        usages = [self.usages[index] for index in sorted(self.usages)]
        return render.usage_body(usages, self.request.n)
