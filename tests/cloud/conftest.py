"""What the tests of cloud models share: a fake cloud, and upstreams that ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asking import TIMEOUTS, Make
from fake_cloud import FakeCloud

from edge.cloud.throttle import Throttle
from edge.cloud.upstream import Upstream
from edge.config import answering
from edge.metrics import Metrics


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as fake:
        yield fake


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def make(cloud: FakeCloud, metrics: Metrics) -> AsyncIterator[Make]:
    """Makes upstreams of the fake cloud; `timeouts` are changed by name."""
    made: list[Upstream] = []

    def make(throttle: Throttle | None = None, **settings: Any) -> Upstream:
        timeouts = {**TIMEOUTS, **settings.pop("timeouts", {})}
        wanted = {"base_url": cloud.url, "timeouts": answering.Timeouts(**timeouts), **settings}
        made.append(Upstream("words", answering.Upstream(**wanted), metrics, throttle))
        return made[-1]

    yield make
    for upstream in made:
        await upstream.stop()


@pytest.fixture
def upstream(make: Make) -> Upstream:
    return make()
