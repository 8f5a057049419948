"""The upstreams of a daemon, changed while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from daemon_process import poll

from edge.cloud.upstreams import Upstreams
from edge.config import answering
from edge.metrics import Metrics


def settings(**urls: str) -> dict[str, answering.Upstream]:
    return {name: answering.Upstream(base_url=url) for name, url in urls.items()}


@asynccontextmanager
async def running(upstreams: Upstreams) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(upstreams.run())
    await asyncio.sleep(0)
    yield task
    await upstreams.stop()
    await asyncio.wait_for(task, 30)


async def test_the_same_settings_keep_their_books() -> None:
    """Breaker and latency of one that did not change; another URL is another upstream."""
    upstreams = Upstreams(
        settings(same="http://127.0.0.1:9", other="http://127.0.0.1:9"), Metrics()
    )
    async with running(upstreams):
        same, other = upstreams["same"], upstreams["other"]
        upstreams.replace(settings(same="http://127.0.0.1:9", other="http://127.0.0.2:9"))
        assert upstreams["same"] is same
        assert upstreams["other"] is not other


async def test_metrics_of_one_that_is_gone() -> None:
    """They go with it, and do not come back with what it still has to say."""
    metrics = Metrics()
    upstreams = Upstreams(settings(a="http://127.0.0.1:9", b="http://127.0.0.1:9"), metrics)
    async with running(upstreams):
        gone = upstreams["a"]
        upstreams.replace(settings(b="http://127.0.0.1:9"))
        gone._measure()
        assert b'edge_upstream_state{upstream="a"}' not in metrics.render()
        assert b'edge_upstream_state{upstream="b"}' in metrics.render()


async def test_those_that_come_are_watched_and_looked_after() -> None:
    """From none at all, and back."""
    told: list[bool] = []
    upstreams = Upstreams({}, Metrics())
    upstreams.watch(lambda: told.append(True))
    async with running(upstreams):
        upstreams.replace(settings(a="http://127.0.0.1:9"))
        new = upstreams["a"]
        await asyncio.to_thread(poll, lambda: new.link == "down", "its probe has run")
        for changed in new._watchers:
            changed()
        assert told == [True]
        upstreams.replace({})
        assert list(upstreams) == []


async def test_a_task_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It brings the daemon down, as that of any component does."""
    upstreams = Upstreams(settings(a="http://127.0.0.1:9"), Metrics())

    async def fail() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(upstreams["a"], "run", fail)
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(upstreams.run(), 30)
