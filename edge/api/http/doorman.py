"""The gate in front of all HTTP routes: lets in by key, and says who it is.

What a route asks for is in `rights.py`. What runs behind it finds a `Visitor` in
`request.state.visitor`. Owned by the event loop.
"""

from __future__ import annotations

import math

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.access.gate import Gate, Presented, Signed
from edge.access.visitor import Visitor
from edge.api.http.body import read_body
from edge.api.http.errors import error_response
from edge.api.http.rights import right_of
from edge.errors import EdgeError, NotFound

QUOTED = ("POST",)
"""Methods that ask for work, and count."""


class Doorman:
    """limit: bytes of a signed body."""

    def __init__(self, app: ASGIApp, gate: Gate, limit: int) -> None:
        self._app = app
        self._gate = gate
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        right = right_of(scope["method"], scope["path"])
        if right == "nothing":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            receive = await self._let_in(request, receive)
            visitor: Visitor = scope["state"]["visitor"]
            if right is None:
                raise no_route(request)
            if right == "admin":
                visitor.check_admin()
            if scope["method"] not in QUOTED:
                await self._app(scope, receive, send)
                return
            with visitor.admitted():
                await self._app(scope, receive, _telling(send, visitor))
        except EdgeError as error:
            response = error_response(error, scope["path"])
            if response.status_code == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)

    async def _let_in(self, request: Request, receive: Receive) -> Receive:
        """Who it is, into the scope; what the body is to be read from then. Raises `EdgeError`."""
        address = request.client.host if request.client else ""
        self._gate.networks.check(address)
        headers = request.headers
        signed = None
        if "x-edge-signature" in headers and "http" in self._gate.required:
            number = headers.get("x-edge-key", "").removeprefix("edge_")
            if self._gate.keyring.signer(number) is not None:
                # Of nobody else a body is read before he is known.
                body = await read_body(request, self._limit)
                signed = _signed(request, headers, number, body)
                receive = _again(body, receive)
        presented = Presented("http", address, _token(headers), signed)
        visitor = await self._gate.admit(presented)
        request.scope.setdefault("state", {})["visitor"] = visitor
        return receive


def no_route(request: Request) -> NotFound:
    """Also for what is routed and has no right declared."""
    where = f"{request.method} {request.url.path}"
    return NotFound(f"{where}: no such route", hint="see /openapi.json")


def visitor_of(request: Request) -> Visitor:
    """Who asks; the doorman let him in."""
    visitor: Visitor = request.state.visitor
    return visitor


def _token(headers: Headers) -> str:
    """From `Authorization: Bearer`, or `X-API-Key`, or `api-key` as Azure's clients send it."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    return headers.get("x-api-key") or headers.get("api-key") or ""


def _signed(request: Request, headers: Headers, number: str, body: bytes) -> Signed:
    query = request.scope.get("query_string", b"").decode("latin-1")
    path = request.scope.get("raw_path") or request.url.path.encode()
    return Signed(
        number=number,
        timestamp=headers.get("x-edge-timestamp", ""),
        signature=headers["x-edge-signature"],
        method=request.method,
        target=path.decode("latin-1") + (f"?{query}" if query else ""),
        body=body,
    )


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, and then whatever else comes."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _telling(send: Send, visitor: Visitor) -> Send:
    """With what is left of the key's limits in the headers, by the names that OpenAI gives them."""
    key = visitor.key
    if key is None:
        return send

    async def with_limits(message: Message) -> None:
        if message["type"] == "http.response.start":
            account, quota, more = visitor.account, key.quota, []
            if quota.requests_per_minute is not None:
                left = max(0, math.floor(account.allowance))
                more += [
                    ("limit-requests", quota.requests_per_minute),
                    ("remaining-requests", left),
                ]
            if quota.tokens_per_day is not None:
                left = max(0, quota.tokens_per_day - account.tokens)
                more += [("limit-tokens", quota.tokens_per_day), ("remaining-tokens", left)]
            told = [(f"x-ratelimit-{name}".encode(), str(value).encode()) for name, value in more]
            message["headers"] = [*message["headers"], *told]
        await send(message)

    return with_limits
