"""Work is refused before it is read while the daemon is short of memory, and bodies are counted.

In front of the gate, because a signed body is read there. It concerns requests that bring work: to
look, and to administer, is possible to the end. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
from typing import get_args

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.api.http.errors import error_response
from edge.ceiling import SMALL_BODY, Body, MemoryCeiling
from edge.errors import Overloaded
from edge.types import Priority

BATCHES = ("/v1/files", "/v1/batches")
"""What is sent there is batch work, whatever it says."""


class Shedding:
    def __init__(self, app: ASGIApp, ceiling: MemoryCeiling) -> None:
        self._app = app
        self._ceiling = ceiling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        brings_work = scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH")
        if not brings_work or scope["path"].startswith("/admin/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._ceiling.check_unread(_priority(scope["path"], headers), _size(headers))
        except Overloaded as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        with self._ceiling.body() as body:
            await self._app(scope, self._counted(receive, body), send)

    def _counted(self, receive: Receive, body: Body) -> Receive:
        """Raises `Overloaded` where the body is given up while it comes."""

        async def counted() -> Message:
            if not body.coming or body.size <= SMALL_BODY:
                message = await receive()
            else:
                message = await self._unless_given_up(receive, body)
            if message["type"] == "http.request":
                more = message.get("more_body", False)
                self._ceiling.note(body, len(message.get("body", b"")), more=more)
            return message

        return counted

    async def _unless_given_up(self, receive: Receive, body: Body) -> Message:
        """Also of a client that sends nothing any more."""
        coming = asyncio.ensure_future(receive())
        given_up = asyncio.ensure_future(body.given_up.wait())
        try:
            await asyncio.wait({coming, given_up}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                self._ceiling.refuse_given_up()
            return coming.result()
        finally:
            for future in (coming, given_up):
                future.cancel()


def _priority(path: str, headers: Headers) -> Priority | None:
    if path.startswith(BATCHES):
        return "batch"
    stated = headers.get("x-edge-priority", "")
    return next((one for one in get_args(Priority) if one == stated), None)


def _size(headers: Headers) -> int | None:
    """None where it is not declared, as of a chunked body; 0 where there is none."""
    declared = headers.get("content-length")
    if declared is None:
        return None if "transfer-encoding" in headers else 0
    return int(declared) if declared.isdecimal() else None
