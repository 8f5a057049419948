"""Answers that end with their client: when it leaves, the work for it is cancelled.

A connection that is dropped for being too slow (see `connection.py`) looks the same from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies that buffer would turn a stream into a long silence."""


class EventStream(StreamingResponse):
    """Server-sent events, made by `events` of what `work` yields.

    Both are closed whatever happens, which cancels the work: a generator that was never started,
    because the client left before the first event, does not close what it was to read from.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        work: AsyncGenerator[Any, None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(events, headers={**headers, **HEADERS}, media_type="text/event-stream")
        self._events = events
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._work.aclose()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves: `ClientDisconnect`.

    For use after the body was read.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
