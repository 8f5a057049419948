"""Tells the audit log of what comes over HTTP: refusals, and requests that no model answered.

An answer is noted by the service, with its model and tokens, and where it came from is known to it
from here. What is left are files, batches, kept answers, administration, and what was refused
before it got to a model. Owned by the event loop.
"""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.access.visitor import Visitor
from edge.audit.audit import Audit
from edge.audit.event import Asking, Event, asking

REFUSED = (401, 403, 429)

READ = ("/v1/files", "/v1/batches", "/v1/responses", "/admin/v1/jobs")
"""What others have left here: who reads it is noted. Whoever reads how the appliance is, is not."""


class Auditing:
    """Around the doorman, so that it hears of those whom he does not let in."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, place = time.monotonic(), 499, ""

        async def hear(message: Message) -> None:
            nonlocal status, place
            if message["type"] == "http.response.start":
                status = message["status"]
                place = dict(message["headers"]).get(b"location", b"").decode("latin-1")
            await send(message)

        client = scope.get("client")
        current = Asking(client[0] if client else "")
        before = asking.set(current)
        try:
            await self._app(scope, receive, hear)
        finally:
            if not current.noted and _matters(scope, status):
                self._audit.note(_event(scope, status, place, time.monotonic() - began))
            asking.reset(before)


def _matters(scope: Scope, status: int) -> bool:
    if status in REFUSED or scope["method"] not in ("GET", "HEAD", "OPTIONS"):
        return True
    path: str = scope["path"]
    return path.startswith(READ)


def _event(scope: Scope, status: int, place: str, seconds: float) -> Event:
    """place: where what was asked for will be, if it was told."""
    visitor: Visitor | None = scope.get("state", {}).get("visitor")
    return Event(
        what="refused" if status in REFUSED else "http",
        who="" if visitor is None else visitor.name,
        door="http",
        id=scope.get("state", {}).get("request_id", ""),
        status=str(status),
        seconds=round(seconds, 3),
        detail=f"{scope['method']} {scope['path'][:500]} {place}".rstrip(),
    )
