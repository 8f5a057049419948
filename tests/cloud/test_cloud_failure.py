"""How failures are sorted: whose fault, worth repeating, and when to come back."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import httpx
import pytest

from edge.cloud.failure import (
    Failure,
    Told,
    cut,
    garbage,
    of_event,
    of_exception,
    of_limit,
    of_status,
    of_total,
    retry_after,
    told,
)
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


def row(failure: Failure) -> tuple[type[EdgeError], str, bool | None, bool | None]:
    error = failure.error
    return type(error), failure.verdict, failure.reached, getattr(error, "again", None)


@pytest.mark.parametrize(
    ("status", "kind", "verdict", "again"),
    [
        (400, UpstreamRefusal, "alive", None),
        (413, UpstreamTooLarge, "alive", None),
        (422, UpstreamUnprocessable, "alive", None),
        *((s, UpstreamError, "failed", False) for s in (401, 402, 403, 404, 405, 410, 301, 204)),
        *((status, UpstreamError, "failed", True) for status in (408, 500, 502, 503, 504, 529)),
        (409, UpstreamError, "alive", False),
        (429, RateLimited, "alive", None),
    ],
)
def test_statuses(status: int, kind: type[EdgeError], verdict: str, again: bool | None) -> None:
    """Every status has its place."""
    failure = of_status("x", status, Told("why"), {})
    assert row(failure) == (kind, verdict, True, again)
    assert "why" in failure.error.message
    assert failure.skip == (1.0 if status == 429 else None)


@pytest.mark.parametrize(
    ("status", "skip", "again"), [(429, 7.0, None), (503, 7.0, False), (500, None, True)]
)
def test_when_to_come_back(status: int, skip: float | None, again: bool | None) -> None:
    """An upstream that names a time is left alone for so long."""
    failure = of_status("x", status, Told(), {"retry-after": "7"})
    assert (failure.skip, failure.error.retry_after) == (skip, skip)
    assert getattr(failure.error, "again", None) is again


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_filtered(code: str) -> None:
    """A policy's refusal is told by its code or its type, whatever the status."""
    for words in (Told("no", code=code), Told("no", type=code)):
        assert type(of_status("x", 400, words, {}).error) is ContentFiltered
        assert type(of_status("x", 403, words, {}).error) is ContentFiltered
        assert type(of_event("x", words).error) is ContentFiltered
        assert type(of_status("x", 500, words, {}).error) is UpstreamError


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (Told(status=400), UpstreamRefusal),
        (Told(status=429), RateLimited),
        (Told(code="rate_limit_exceeded"), RateLimited),
        (Told(type="invalid_request_error"), UpstreamRefusal),
        (Told(type="server_error"), UpstreamError),
        (Told(), UpstreamError),
    ],
)
def test_events(words: Told, kind: type[EdgeError]) -> None:
    """An error within a stream has no status, so its own words are looked at."""
    assert type(of_event("x", words).error) is kind


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (of_limit("x", "connect", 3), (UpstreamTimeout, "failed", False, True)),
        (of_limit("x", "first_token", 3), (UpstreamTimeout, "failed", None, True)),
        (of_limit("x", "stall", 3), (UpstreamTimeout, "failed", None, True)),
        (of_total("x", 3, its_own=True), (UpstreamTimeout, "failed", None, False)),
        (of_total("x", 3, its_own=False), (UpstreamTimeout, "unknown", None, False)),
        (cut("x", "y"), (UpstreamError, "failed", None, True)),
        (garbage("x", "y"), (UpstreamError, "failed", True, True)),
        (
            of_exception("x", httpx.ConnectError("no"), connecting=True),
            (UpstreamError, "failed", False, True),
        ),
        (
            of_exception("x", httpx.ReadError(""), connecting=False),
            (UpstreamError, "failed", None, True),
        ),
        (
            of_exception("x", httpx.DecodingError("bad gzip"), connecting=False),
            (UpstreamError, "failed", True, True),
        ),
    ],
)
def test_without_a_status(failure: Failure, expected: tuple[Any, ...]) -> None:
    """Time limits, broken connections and nonsense count, and may be tried again."""
    assert row(failure) == expected
    assert "upstream `x`" in failure.error.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (" 2.5 ", 2.5),
        ("0", 1.0),
        ("-3", 1.0),
        ("999999", 3600.0),
        ("inf", 3600.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (formatdate(1_000_090, usegmt=True), 90.0),
        (formatdate(999_000, usegmt=True), 1.0),
        ("Mon, 99 Foo 2020 99:99:99 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds or a date, within bounds; a date is read by the server's own clock."""
    headers = {"retry-after": value, "date": formatdate(1_000_000, usegmt=True)}
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "m", "code": "c", "type": "t"}}, Told("m", "c", "t")),
        ({"error": {"message": "m", "code": 429}}, Told("m", status=429)),
        ({"error": {"message": "m", "code": 7, "type": None}}, Told("m")),
        ({"error": "m"}, Told("m")),
        ({"message": "m"}, Told("m")),
        ({"detail": [{"loc": "x"}]}, Told('[{"loc":"x"}]')),
        ({"object": "error", "message": "m", "code": 400}, Told("m", status=400)),
        ({}, Told()),
        ([1], Told()),
        (None, Told()),
    ],
)
def test_shapes_of_errors(body: Any, expected: Told) -> None:
    """Servers do not agree on how an error looks."""
    assert told(body) == expected
