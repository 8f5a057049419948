"""Who asks over HTTP, which is what fairness and idempotency keys go by."""

from __future__ import annotations

import hashlib

from starlette.requests import Request

from edge.api.http.doorman import visitor_of


def caller_of(http: Request) -> str:
    """Who asks, by the name of his key. Where none is needed, by whatever came in its place; those
    without anything are all the same."""
    if caller := visitor_of(http).caller:
        return caller
    key = http.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest() if key else ""
