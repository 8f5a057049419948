"""When an upstream is not asked, and how soon it is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from asking import Make, ask, chat, text_of, until
from fake_cloud import FakeCloud

from edge.cloud.throttle import Throttle
from edge.cloud.upstream import Upstream
from edge.config import answering
from edge.errors import EdgeError, NoRoute, RateLimited, UpstreamError
from edge.metrics import Metrics

Run = Callable[[Upstream], None]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Runs an upstream's loop; it has to end when it is told to."""
    running: list[tuple[Upstream, asyncio.Task[None]]] = []

    def run(upstream: Upstream) -> None:
        work: Coroutine[Any, Any, None] = upstream.run()
        running.append((upstream, asyncio.create_task(work)))

    yield run
    for upstream, task in running:
        began = time.monotonic()
        await upstream.stop()
        await task
        assert time.monotonic() - began < 1


def breaker(**settings: Any) -> answering.Breaker:
    return answering.Breaker(**{"consecutive": 2, "open_seconds": 0.5, **settings})


async def fail(upstream: Upstream, times: int) -> None:
    for _ in range(times):
        with pytest.raises(UpstreamError):
            await ask(upstream)


def gauge(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"upstream": "words"})


async def test_opens_and_closes(make: Make, cloud: FakeCloud, metrics: Metrics, run: Run) -> None:
    """Failures in a row open it, one request tries it out, and the others follow."""
    upstream, told = make(breaker=breaker()), asyncio.Event()
    upstream.watch(told.set)
    run(upstream)
    cloud.fault("cut", after=2, times=2)
    await fail(upstream, 2)
    assert gauge(metrics, "edge_upstream_state") == 2
    refusal = upstream.unavailable()
    assert isinstance(refusal, NoRoute)
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 0.5
    told.clear()
    await asyncio.wait_for(told.wait(), 5)
    assert upstream.unavailable() is None
    await until(lambda: gauge(metrics, "edge_upstream_state") == 1)
    cloud.fault("slow", delay=0.02, times=1)
    trial = asyncio.create_task(ask(upstream))
    await until(lambda: len(cloud.calls()) == 3)
    with pytest.raises(NoRoute):
        await ask(upstream)
    await trial
    assert gauge(metrics, "edge_upstream_state") == 0
    await ask(upstream)
    assert len(cloud.calls()) == 4


async def test_trial_of_a_client_that_leaves(make: Make, cloud: FakeCloud) -> None:
    """The place of the one trial is free again."""
    upstream = make(breaker=breaker(open_seconds=0.05))
    cloud.fault("status", status=500, times=2)
    await fail(upstream, 2)
    await until(lambda: upstream.unavailable() is None)
    cloud.fault("slow", delay=0.05, times=1)
    source = upstream.stream(chat(), time.monotonic())
    await source.__anext__()
    assert upstream.unavailable() is not None
    await source.aclose()
    assert upstream.unavailable() is None
    await ask(upstream)
    assert upstream.breaker.state == "closed"


async def test_refusals_are_no_failures(make: Make, cloud: FakeCloud) -> None:
    """Faults of the caller and requests that come too fast open nothing."""
    upstream = make(breaker=breaker(consecutive=1))
    cloud.fault("status", status=400, times=2)
    cloud.fault("content_filter", times=1)
    cloud.fault("status", status=429, times=1)
    for _ in range(4):
        with pytest.raises(EdgeError):
            await ask(upstream)
    assert upstream.breaker.state == "closed"


async def test_told_when_the_wait_is_over(make: Make, cloud: FakeCloud, run: Run) -> None:
    """The end of Retry-After is told too."""
    upstream, told = make(), asyncio.Event()
    run(upstream)
    await until(lambda: upstream.link == "up")
    upstream.watch(told.set)
    cloud.fault("status", status=429, times=1)
    with pytest.raises(RateLimited):
        await ask(upstream)
    assert not told.is_set()
    await asyncio.wait_for(told.wait(), 5)
    assert upstream.unavailable() is None


async def test_link_returns(make: Make, cloud: FakeCloud, metrics: Metrics, run: Run) -> None:
    """Within seconds of the server's return it may be asked, long before `open_seconds`."""
    upstream = make(breaker=breaker(consecutive=1, open_seconds=600))
    run(upstream)
    await until(lambda: upstream.link == "up")
    cloud.stop()
    await fail(upstream, 1)
    assert upstream.link == "down"
    assert gauge(metrics, "edge_upstream_link_up") == 0
    assert upstream.unavailable() is not None
    told = asyncio.Event()
    upstream.watch(told.set)
    cloud.start()
    began = time.monotonic()
    await asyncio.wait_for(told.wait(), 10)
    assert time.monotonic() - began < 3
    assert upstream.breaker.state == "half_open"
    assert text_of(await ask(upstream, chat(max_tokens=2))) == "w0 w1"
    assert gauge(metrics, "edge_upstream_link_up") == 1


async def test_link_lost_in_mid_stream(make: Make, cloud: FakeCloud, run: Run) -> None:
    """A cut that turns out to be a lost link is over when the link is back."""
    upstream = make(breaker=breaker(consecutive=1, open_seconds=600))
    run(upstream)
    await until(lambda: upstream.link == "up")
    cloud.fault("slow", delay=0.05, times=1)
    source = upstream.stream(chat(), time.monotonic())
    await source.__anext__()
    cloud.fault("refuse", seconds=1.0)
    with pytest.raises(UpstreamError, match="broke off"):
        [part async for part in source]
    assert upstream.breaker.state == "open"
    await until(lambda: upstream.link == "down")
    await until(lambda: upstream.unavailable() is None)
    await ask(upstream)


async def test_a_sick_server_is_not_a_lost_link(make: Make, cloud: FakeCloud, run: Run) -> None:
    """That it can be reached says nothing about whether it works."""
    upstream = make(breaker=breaker(consecutive=1, open_seconds=600))
    run(upstream)
    cloud.fault("stall", after=1, times=1)
    await fail(upstream, 1)
    probes = len(cloud.calls("/models"))
    await until(lambda: len(cloud.calls("/models")) > probes)
    await until(lambda: upstream.link == "up")
    assert upstream.breaker.state == "open"


async def test_idle_connections_of_a_lost_link(make: Make, cloud: FakeCloud) -> None:
    """They are not used again once the link was lost."""
    upstream = make()
    await ask(upstream)
    await upstream._probe.lost("for the test")
    await ask(upstream)
    assert cloud.state()["connections"] == 2


async def test_one_look_up_at_a_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be looked up for lack of a network occupies one thread, not many."""
    upstream = make(timeouts={"connect": 0.05}, base_url="http://words.invalid/v1")
    asked, answer = [], asyncio.get_running_loop().create_future()

    async def getaddrinfo(host: str, port: int | None) -> Any:
        asked.append(host)
        return await answer

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    for _ in range(3):
        await upstream._probe.ask()
        assert upstream.link == "down"
    assert asked == ["words.invalid"]
    answer.set_exception(OSError("no such name"))
    await until(lambda: upstream._probe._lookup is not None and upstream._probe._lookup.done())
    await upstream._probe.ask()
    assert asked == ["words.invalid"] * 2


async def test_throttle(make: Make, cloud: FakeCloud) -> None:
    """Kept requests wait for their turn; others do not, and time spent waiting is nobody's."""
    throttle = Throttle(80)  # 10 kB a second
    upstream = make(throttle=throttle, timeouts={"total": 0.6})
    throttle.charge(18_000)
    began = time.monotonic()
    await ask(upstream)
    assert time.monotonic() - began < 0.5
    await ask(upstream, chat(kept=True))
    assert time.monotonic() - began > 0.7
    assert throttle._settled() < 0
    throttle.charge(10_000)
    with pytest.raises(EdgeError, match="deadline"):
        await ask(upstream, chat(kept=True, deadline=0.1))
    assert len(cloud.calls()) == 2
