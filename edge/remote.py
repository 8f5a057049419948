"""An upstream as a target of routes, beside the models of this appliance (`local.py`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from edge.cloud.upstream import Upstream
from edge.errors import EdgeError
from edge.types import Part, Request, Route, UpstreamFacts


class CloudModel:
    """`name` is the target's, `model` what it is called there."""

    route: Route = "cloud"
    at_hand = True

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.name = f"cloud:{upstream.name}"
        self.model = upstream.model
        self.retries = upstream.settings.retries
        self.identity = f"{self.name} {upstream.settings.base_url} {upstream.model}"

    @property
    def latency(self) -> float | None:
        """Smoothed seconds to the first token, None while unknown."""
        return self.upstream.latency

    @property
    def room(self) -> int:
        """Kept requests that it takes at once: one while it is on probation."""
        if self.unavailable() is not None:
            return 0
        closed = self.upstream.breaker.state == "closed"
        return self.upstream.settings.max_concurrent if closed else 1

    @property
    def reachable(self) -> bool:
        """False while it is known that nothing gets there."""
        return self.upstream.link != "down"

    def facts(self) -> UpstreamFacts:
        upstream, refusal = self.upstream, self.unavailable()
        return UpstreamFacts(
            name=upstream.name,
            model=upstream.model,
            base_url=upstream.settings.base_url,
            state=upstream.breaker.state,
            link=upstream.link,
            latency_seconds=None if upstream.latency is None else round(upstream.latency, 3),
            reason=None if refusal is None else refusal.message,
        )

    def filled_in(self, request: Request) -> Request:
        """As it is: what the upstream decides by itself, nobody here knows."""
        return request

    def fetch(self) -> None:
        """It is there already."""

    def unavailable(self) -> EdgeError | None:
        return self.upstream.unavailable()

    def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        return self.upstream.stream(request, began)
