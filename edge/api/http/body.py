"""Reading a request's body within bounds of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from edge.errors import PayloadTooLarge, RequestTimeout

SECONDS = 30.0
"""Time for a body to arrive; a client that sends a byte now and then does not get longer."""

MOST_DISCARDED = 64 * 1024 * 1024
"""Bytes of a body that is too large which are read and dropped, so that the client is still
sending when the refusal reaches it, and not cut off before."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises `PayloadTooLarge` above `limit` bytes, `RequestTimeout` when slow."""
    try:
        return await asyncio.wait_for(_read(request, limit), SECONDS)
    except asyncio.TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise RequestTimeout("the client left before its request was complete") from None


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and int(declared) > limit
    if too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            too_large = too_large or size > limit
            if not too_large:
                chunks.append(chunk)
            elif size > limit + MOST_DISCARDED:
                break
        if too_large:
            raise _too_large(limit)
        return b"".join(chunks)
    finally:
        # An error's traceback knows this frame, and Python 3.10's `wait_for` keeps the error.
        chunks.clear()


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes (limits.max_body_mb)")
