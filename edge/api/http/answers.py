"""From the service's pieces to a response, streamed or whole, in either of OpenAI's shapes.

`Chat` and `Completion` know only how a piece looks; the flow around them is the same. An error
before the first token is a response with its status; after it, it is an event in the stream, and
the stream ends without `[DONE]`.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from edge.api.http import render
from edge.api.http.errors import error_json
from edge.api.http.stream import EventStream, while_connected
from edge.errors import EdgeError, InternalError
from edge.service import Service
from edge.types import Delta, Finished, Part, Request, TokenLogprob, Usage

logger = logging.getLogger(__name__)

Parts = AsyncGenerator[list[Part], None]


class Shape(Protocol):
    """How one piece of answer number `index` looks, as an entry of `choices`."""

    id: str
    chunk_object: str
    whole_object: str

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]: ...

    def closing(self, index: int, finished: Finished) -> dict[str, Any]: ...

    def whole(
        self, index: int, text: str, logprobs: list[TokenLogprob], finished: Finished
    ) -> dict[str, Any]: ...


class Chat:
    """Choices of /v1/chat/completions."""

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def __init__(self, request: Request) -> None:
        self.id = f"chatcmpl-{request.id}"
        self.logprobs = request.logprobs is not None

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": delta.text},
            "logprobs": render.chat_logprobs(delta.logprobs) if self.logprobs else None,
            "finish_reason": None,
        }

    def closing(self, index: int, finished: Finished) -> dict[str, Any]:
        reason = finished.reason
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def whole(
        self, index: int, text: str, logprobs: list[TokenLogprob], finished: Finished
    ) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": render.chat_logprobs(logprobs) if self.logprobs else None,
            "finish_reason": finished.reason,
        }


class Completion:
    """Choices of /v1/completions."""

    chunk_object = whole_object = "text_completion"

    def __init__(self, request: Request) -> None:
        self.id = f"cmpl-{request.id}"
        self.logprobs = request.logprobs is not None

    def opening(self, index: int) -> None:
        return None

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]:
        return self._choice(index, delta.text, delta.logprobs, offset, None)

    def closing(self, index: int, finished: Finished) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finished.reason}

    def whole(
        self, index: int, text: str, logprobs: list[TokenLogprob], finished: Finished
    ) -> dict[str, Any]:
        return self._choice(index, text, logprobs, 0, finished.reason)

    def _choice(
        self, index: int, text: str, logprobs: list[TokenLogprob], offset: int, reason: str | None
    ) -> dict[str, Any]:
        listed = render.completion_logprobs(logprobs, offset) if self.logprobs else None
        return {"index": index, "text": text, "logprobs": listed, "finish_reason": reason}


class Answering:
    """One HTTP request's answers on their way out."""

    def __init__(self, service: Service, request: Request, shape: Shape) -> None:
        runner = service.runner(request.model)
        self.request = request
        self.shape = shape
        self.model = request.model or runner.name
        self.created = int(time.time())
        self.headers = {
            "X-Edge-Route": "local",
            "X-Edge-Model": runner.name,
            "X-Edge-Attempts": "1",
        }
        self.usages: dict[int, Usage] = {}
        self.source = service.generate(request, "http")

    async def whole(self, http: HttpRequest) -> Response:
        """The complete answer; a client that leaves before it cancels the work."""
        answer = await while_connected(http, self._collect())
        return Response(render.encode(answer), headers=self.headers, media_type="application/json")

    async def stream(self, http: HttpRequest, include_usage: bool) -> EventStream:
        """The answer as it comes. Waits for the first token, so that a refusal has a status."""
        first = await while_connected(http, self._next())
        return EventStream(self._events(first, include_usage), self.source, self.headers)

    async def _next(self) -> list[Part]:
        return await self.source.__anext__()

    async def _collect(self) -> render.Answer:
        # Nothing is set aside for answers that may be refused: a caller can ask for millions.
        texts: defaultdict[int, str] = defaultdict(str)
        logprobs: defaultdict[int, list[TokenLogprob]] = defaultdict(list)
        finished: dict[int, Finished] = {}
        async with aclosing(self.source) as source:
            async for parts in source:
                for part in parts:
                    if isinstance(part.event, Finished):
                        finished[part.index] = part.event
                        self.usages[part.index] = part.event.usage
                    else:
                        texts[part.index] += part.event.text
                        logprobs[part.index] += part.event.logprobs
        answer = self._answer(
            self.shape.whole_object,
            [
                self.shape.whole(index, texts[index], logprobs[index], finished[index])
                for index in range(self.request.answers)
            ],
        )
        answer.usage = self._usage()
        if self.request.answers == 1:
            answer.timings = render.timings(self.usages[0])
        return answer

    async def _events(self, first: list[Part], include_usage: bool) -> AsyncGenerator[bytes, None]:
        offsets = [0] * self.request.answers
        try:
            async with aclosing(self.source) as source:
                yield self._openings(include_usage) + self._chunks(first, offsets, include_usage)
                async for parts in source:
                    yield self._chunks(parts, offsets, include_usage)
            if include_usage:
                last = self._answer(self.shape.chunk_object, [])
                last.usage = self._usage()
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
            elif event.text or event.logprobs:
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
        return render.event(answer)

    def _answer(self, kind: str, choices: list[dict[str, Any]]) -> render.Answer:
        return render.Answer(self.shape.id, kind, self.created, self.model, choices)

    def _usage(self) -> render.UsageBody:
        usages = [self.usages[index] for index in sorted(self.usages)]
        return render.usage_body(usages, self.request.n)
