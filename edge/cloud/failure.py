"""What went wrong with a call, whose fault it was, and what follows from it. Pure.

A fault of the caller is relayed and held against nobody, a 429 means later, and everything else
speaks against the upstream.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx
import msgspec

from edge.errors import (
    ContentFiltered,
    EdgeError,
    RateLimited,
    UpstreamError,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnprocessable,
)

Verdict = Literal["failed", "alive", "unknown"]
"""What a call says of its upstream: it failed, it is there and works, or nothing."""

LONGEST_MESSAGE = 500
"""Characters of an upstream's own words that are passed on."""

SHORTEST_SKIP, LONGEST_SKIP = 1.0, 3600.0
"""Bounds, in seconds, of how long an upstream is left alone because it asked for that."""

FILTERED = ("content_filter", "content_policy_violation")


@dataclass(frozen=True)
class Failure:
    """The end of a call that brought no answer.

    outcome: a label for metrics, of a small fixed set. reached: True if it answered something,
    False if no connection came about, None where nobody knows. skip: seconds for which the
    upstream asked to be left alone.
    """

    error: EdgeError
    outcome: str
    verdict: Verdict = "failed"
    reached: bool | None = True
    skip: float | None = None


class CallFailed(Exception):
    """Carries a `Failure` to the place that keeps the books."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure


class Told(msgspec.Struct):
    """An upstream's own words about an error, in whichever of the usual shapes they came."""

    message: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None

    @property
    def filtered(self) -> bool:
        return self.code in FILTERED or self.type in FILTERED


def told(body: Any) -> Told:
    """Reads `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}` and `{"message": ...}`."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return Told(message=error)
    if not isinstance(error, dict):
        return Told()
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    return Told(
        message if isinstance(message, str) else msgspec.json.encode(message).decode(),
        code if isinstance(code, str) else "",
        kind if isinstance(kind := error.get("type"), str) else "",
        status,
    )


_REFUSALS = {400: UpstreamRefusal, 413: UpstreamTooLarge, 422: UpstreamUnprocessable}


def of_status(name: str, status: int, told: Told, headers: Mapping[str, str]) -> Failure:
    """An answer with a status other than 200. `told.message` must be safe to show."""
    words = f": {told.message}" if told.message else ""
    if told.filtered and 400 <= status < 500:
        error = ContentFiltered(told.message or f"upstream `{name}` refuses this content")
        return Failure(error, "content_filter", "alive")
    if status in _REFUSALS:
        refusal = _REFUSALS[status](told.message or f"upstream `{name}` refuses the request")
        return Failure(refusal, "invalid_request_error", "alive")
    said = f"upstream `{name}` answered {status}{words}"
    wait = retry_after(headers)
    if status == 429:
        wait = wait or SHORTEST_SKIP
        limited = RateLimited(said, retry_after=wait)
        return Failure(limited, "rate_limit_exceeded", "alive", skip=wait)
    if status == 503 and wait is not None:
        return Failure(UpstreamError(said, retry_after=wait), "server_error", skip=wait)
    if status == 409:
        # The same idempotency key is being answered there: nothing is wrong, it is only too soon.
        return Failure(UpstreamError(said, retry_after=wait or SHORTEST_SKIP), "conflict", "alive")
    if status == 408 or status >= 500:
        return Failure(UpstreamError(said, again=True), "server_error")
    return Failure(UpstreamError(said, hint=_cure(name, status)), "refused")


def of_event(name: str, told: Told) -> Failure:
    """An error that came as an event of a stream, or under status 200."""
    status = told.status
    if status is None and "rate_limit" in told.code + told.type:
        status = 429
    if status is None and (told.filtered or told.type == "invalid_request_error"):
        status = 400
    if status is not None:
        return of_status(name, status, told, {})
    words = f": {told.message}" if told.message else ""
    return Failure(
        UpstreamError(f"upstream `{name}` ended with an error{words}", again=True), "server_error"
    )


def of_limit(name: str, limit: str, seconds: float) -> Failure:
    """A time limit passed: `connect`, `first_token` or `stall` of `timeouts`."""
    doing = {
        "connect": "was not reached",
        "first_token": "did not begin to answer",
        "stall": "went silent in the middle of an answer",
    }[limit]
    error = UpstreamTimeout(
        f"upstream `{name}` {doing} within {seconds:g} s (timeouts.{limit})",
        again=True,
        reached=limit != "connect",
    )
    return Failure(error, limit, reached=False if limit == "connect" else None)


def of_total(name: str, seconds: float, *, its_own: bool) -> Failure:
    """The time for the whole request is used up; its_own: by this attempt, and not before it."""
    error = UpstreamTimeout(
        f"upstream `{name}` was not done when the request's {seconds:g} s were over "
        "(timeouts.total)"
    )
    return Failure(error, "total", "failed" if its_own else "unknown", reached=None)


def of_transport(name: str, error: Exception, *, connecting: bool) -> Failure:
    """The connection did not come about, or broke."""
    # Only the first line: the rest of what TLS has to say is for developers.
    why = (str(error) or type(error).__name__).splitlines()[0][:LONGEST_MESSAGE]
    if connecting:
        unreachable = UpstreamError(
            f"upstream `{name}` cannot be reached: {why}", again=True, reached=False
        )
        return Failure(unreachable, "unreachable", reached=False)
    return cut(name, why)


def cut(name: str, why: str) -> Failure:
    """The answer broke off before its end."""
    return Failure(
        UpstreamError(f"upstream `{name}` broke off: {why}", again=True), "cut", reached=None
    )


def garbage(name: str, why: str) -> Failure:
    """It answered with something that is no answer."""
    error = UpstreamError(f"upstream `{name}` sent no answer but {why}", again=True)
    return Failure(error, "garbage")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date (RFC 9110, 10.2.3), within bounds; None if not told.

    A date is compared with the answer's own `Date`, because an appliance's clock may be wrong.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        then = _epoch(value)
        if then is None:
            return None
        seconds = then - (_epoch(headers.get("date", "")) or time.time())
    if seconds != seconds:
        return None
    return min(max(seconds, SHORTEST_SKIP), LONGEST_SKIP)


def _epoch(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _cure(name: str, status: int) -> str | None:
    if status in (401, 403):
        return f"check the key of upstreams.{name}"
    if status in (404, 405) or 300 <= status < 400:
        return f"check upstreams.{name}.base_url and .model"
    return None


def of_exception(name: str, error: Exception, *, connecting: bool) -> Failure:
    """Whatever httpx raised."""
    if isinstance(error, httpx.DecodingError):
        return garbage(name, "a body that cannot be decompressed")
    return of_transport(name, error, connecting=connecting)
