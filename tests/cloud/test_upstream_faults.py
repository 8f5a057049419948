"""Everything that can go wrong at a cloud model, over real sockets, with short time limits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import fake_cloud
import pytest
from asking import TIMEOUTS, Make, ask, chat, finish_of, text_of, until
from fake_cloud import FakeCloud

from edge.cloud.upstream import Upstream
from edge.errors import (
    ContentFiltered,
    DeadlineExceeded,
    EdgeError,
    RateLimited,
    UpstreamError,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnprocessable,
)
from edge.metrics import Metrics
from edge.types import Part

LATEST = max(TIMEOUTS["first_token"], TIMEOUTS["stall"]) + 1.0
"""Seconds after which an attempt has to be over, counted from its last piece."""


def outcomes(metrics: Metrics) -> dict[str, float]:
    (family,) = metrics.upstream_requests.collect()
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


async def failing(upstream: Upstream, **fields: Any) -> tuple[EdgeError, list[Part]]:
    """The error with which a request ends in time, and what came before it."""
    parts: list[Part] = []
    at = time.monotonic()
    try:
        async for some in upstream.stream(chat(**fields), at):
            parts += some
            at = time.monotonic()
    except EdgeError as error:
        assert time.monotonic() - at < LATEST
        return error, parts
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "kind", "again", "outcome"),
    [
        (("reset", {}), UpstreamError, True, "cut"),
        (("hang", {}), UpstreamTimeout, True, "first_token"),
        (("html", {}), UpstreamError, True, "garbage"),
        (("broken_json", {}), UpstreamError, True, "garbage"),
        (("empty_choices", {}), UpstreamError, True, "garbage"),
        (("content_filter", {}), ContentFiltered, None, "content_filter"),
        (("status", {"status": 400}), UpstreamRefusal, None, "invalid_request_error"),
        (("status", {"status": 413}), UpstreamTooLarge, None, "invalid_request_error"),
        (("status", {"status": 422}), UpstreamUnprocessable, None, "invalid_request_error"),
        (("status", {"status": 401}), UpstreamError, False, "refused"),
        (("status", {"status": 404}), UpstreamError, False, "refused"),
        (("status", {"status": 302}), UpstreamError, False, "refused"),
        (("status", {"status": 408}), UpstreamError, True, "server_error"),
        (("status", {"status": 500}), UpstreamError, True, "server_error"),
        (("status", {"status": 503}), UpstreamError, True, "server_error"),
        (("status", {"status": 500, "endless": True}), UpstreamError, True, "server_error"),
        (
            ("status", {"status": 400, "endless": True}),
            UpstreamRefusal,
            None,
            "invalid_request_error",
        ),
    ],
)
async def test_before_an_answer(
    make: Make,
    cloud: FakeCloud,
    metrics: Metrics,
    stream: bool,
    fault: tuple[str, dict[str, Any]],
    kind: type[EdgeError],
    again: bool | None,
    outcome: str,
) -> None:
    """Nothing of an answer came: the error tells whose fault it was, and the next try works."""
    upstream = make(stream=stream)
    cloud.fault(fault[0], **fault[1], times=1)
    error, parts = await failing(upstream)
    assert type(error) is kind
    assert getattr(error, "again", None) is again
    assert parts == []
    assert outcomes(metrics) == {outcome: 1}
    assert text_of(await ask(upstream)) == fake_cloud.text_of(20)


@pytest.mark.parametrize(
    ("fault", "kind", "outcome"),
    [
        ("comments", UpstreamTimeout, "first_token"),
        ("silence", UpstreamTimeout, "first_token"),
        ("empty_deltas", UpstreamTimeout, "first_token"),
        ("error_event", UpstreamError, "server_error"),
        ("tool_call", UpstreamError, "garbage"),
    ],
)
async def test_before_the_first_token(
    upstream: Upstream, cloud: FakeCloud, metrics: Metrics, fault: str, kind: type, outcome: str
) -> None:
    """A stream that has begun is not an answer that has begun."""
    cloud.fault(fault, times=1)
    error, parts = await failing(upstream)
    assert type(error) is kind
    assert (error.again, parts) == (True, [])  # type: ignore[attr-defined]
    assert outcomes(metrics) == {outcome: 1}


@pytest.mark.parametrize(
    ("fault", "kind", "outcome"),
    [
        ("stall", UpstreamTimeout, "stall"),
        ("comments", UpstreamTimeout, "stall"),
        ("empty_deltas", UpstreamTimeout, "stall"),
        ("cut", UpstreamError, "cut"),
        ("broken_json", UpstreamError, "garbage"),
        ("empty_choices", UpstreamError, "garbage"),
        ("error_event", UpstreamError, "server_error"),
        ("no_reason", UpstreamError, "cut"),
    ],
)
async def test_in_the_middle(
    upstream: Upstream, cloud: FakeCloud, metrics: Metrics, fault: str, kind: type, outcome: str
) -> None:
    """What had come is delivered, then the error; never an end."""
    cloud.fault(fault, after=3, times=1)
    error, parts = await failing(upstream, max_tokens=6)
    assert type(error) is kind
    assert text_of(parts) == fake_cloud.text_of(6 if fault == "no_reason" else 3)
    assert outcomes(metrics) == {outcome: 1}


async def test_several_answers_end_together(upstream: Upstream, cloud: FakeCloud) -> None:
    """When one of them fails, the others are given up."""
    cloud.fault("cut", after=2, delay=0.1, times=1)
    cloud.fault("slow", delay=0.1)
    error, _ = await failing(upstream, n=3)
    assert "broke off" in error.message
    await until(lambda: sum(call["left"] for call in cloud.calls()) >= 2)


async def test_a_client_that_reads_on(upstream: Upstream, cloud: FakeCloud) -> None:
    """One that is slow to take the pieces is not an upstream that stalls."""
    source = upstream.stream(chat(), time.monotonic())
    parts = await source.__anext__()
    begin = time.monotonic()
    await until(lambda: time.monotonic() - begin > TIMEOUTS["stall"] * 2)
    parts += [part async for some in source for part in some]
    assert text_of(parts) == fake_cloud.text_of(20)


@pytest.mark.parametrize("fault", ["no_done", "no_usage", "open_end"])
async def test_ends_that_are_good_enough(upstream: Upstream, cloud: FakeCloud, fault: str) -> None:
    """An answer with a finish_reason is finished, whatever else is missing."""
    cloud.fault(fault, times=1)
    began = time.monotonic()
    parts = await ask(upstream)
    assert time.monotonic() - began < 3
    assert text_of(parts) == fake_cloud.text_of(20)
    usage = finish_of(parts).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (0, 20)


async def test_filtered_in_the_middle(upstream: Upstream, cloud: FakeCloud) -> None:
    """A policy that ends an answer gives it an end, not an error."""
    cloud.fault("filtered", times=1)
    assert finish_of(await ask(upstream)).reason == "content_filter"


async def test_unreachable(upstream: Upstream, cloud: FakeCloud, metrics: Metrics) -> None:
    """Nobody listens."""
    cloud.stop()
    error, _ = await failing(upstream)
    assert type(error) is UpstreamError
    assert error.again
    assert "cannot be reached" in error.message
    assert outcomes(metrics) == {"unreachable": 1}
    assert upstream.link == "down"


async def test_no_such_name(make: Make) -> None:
    """A name that does not exist is an upstream that cannot be reached."""
    upstream = make(base_url="http://words.invalid/v1", timeouts={"connect": 5.0})
    with pytest.raises(UpstreamError, match=r"cannot be reached|was not reached"):
        await ask(upstream)
    assert upstream.link == "down"


async def test_connecting_takes_too_long(make: Make) -> None:
    """TLS that never answers counts as connecting, and so does what comes before it."""

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = make(base_url=f"https://127.0.0.1:{port}/v1", timeouts={"connect": 0.3})
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout, match=r"timeouts\.connect"):
        await ask(upstream)
    assert time.monotonic() - began < 1.3
    assert upstream.link == "down"
    server.close()
    await server.wait_closed()


async def test_the_whole_time(make: Make, cloud: FakeCloud, metrics: Metrics) -> None:
    """`total` counts from the request's arrival, and pieces do not prolong it."""
    upstream = make(timeouts={"total": 1.0})
    cloud.fault("slow", delay=0.1)
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout, match=r"timeouts\.total") as caught:
        await ask(upstream, began=began - 0.5)
    assert time.monotonic() - began < 1.5
    assert not caught.value.again
    with pytest.raises(UpstreamTimeout, match=r"timeouts\.total"):
        await ask(upstream, began=began - 2)
    assert outcomes(metrics) == {"total": 1}


async def test_a_deadline(upstream: Upstream, cloud: FakeCloud, metrics: Metrics) -> None:
    """The caller's own time is nobody's failure."""
    cloud.fault("slow", delay=0.1)
    error, parts = await failing(upstream, deadline=0.45)
    assert type(error) is DeadlineExceeded
    assert 0 < len(parts) < 6
    assert outcomes(metrics) == {"deadline_exceeded": 1}
    assert upstream.breaker._results == upstream.breaker._results.__class__()


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, UpstreamError)])
async def test_left_alone(make: Make, cloud: FakeCloud, status: int, kind: type[EdgeError]) -> None:
    """An upstream that says when to come back is not asked before."""
    upstream = make()
    cloud.fault("status", status=status, retry_after=30, times=1)
    error, _ = await failing(upstream)
    assert type(error) is kind
    assert error.retry_after == 30
    refusal = upstream.unavailable()
    assert refusal is not None
    assert refusal.retry_after is not None
    assert 29 < refusal.retry_after <= 30
    error, _ = await failing(upstream)
    assert error.code == "no_route"
    assert len(cloud.calls()) == 1
