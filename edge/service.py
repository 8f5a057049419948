"""The waist: every door asks here, and everything below answers through here.

`generate` is the life of a live request: its route, pieces of the answer, an end, and the books.
Closing the generator cancels the work within one step; there is no other way to cancel.
Owned by the event loop; no task and no thread of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from edge.answers import AnswerCache
from edge.config import Config
from edge.errors import EdgeError, Overloaded
from edge.local import LocalModel
from edge.metrics import Metrics
from edge.routing.router import Router
from edge.routing.target import Target
from edge.runtime.runner import ModelRunner
from edge.types import Delta, Part, Request, Trail

STOPPING_RETRY = 5.0
"""Seconds after which to ask again an appliance that stops: it may be back."""


class Service:
    """All that can answer here behind one call.

    upstreams: targets that are not models here. cache: of answers, None to compute them all.
    """

    def __init__(
        self,
        config: Config,
        runners: Mapping[str, ModelRunner],
        metrics: Metrics,
        upstreams: Mapping[str, Target] | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        self.config = config
        self.runners = runners
        self.metrics = metrics
        local = [LocalModel(runner, config.limits, metrics) for runner in runners.values()]
        targets: dict[str, Target] = {target.name: target for target in local}
        targets |= {target.name: target for target in (upstreams or {}).values()}
        self.router = Router(config, targets, cache)
        self.started_at = time.time()
        self.live = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """True when every model that is served here can answer now."""
        return not self.draining and all(r.state == "ready" for r in self.runners.values())

    @property
    def slots(self) -> int:
        """Sequences that all loaded models can compute at once."""
        return sum(runner.facts.slots for runner in self.runners.values() if runner.facts)

    def check(self, request: Request) -> None:
        """Raises `ModelNotFound` and `NoRoute` for what can be answered neither now nor later."""
        self.router.candidates(request)

    async def generate(
        self, request: Request, door: str, trail: Trail
    ) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers as they come, several at a time when they pile up.

        The first yield comes with the first token; then the trail tells who answers. Raises an
        `EdgeError` before it when the request is refused, and after it when the answer cannot be
        completed.
        """
        measured = _Measured(self.metrics, request)
        status = "cancelled"
        self.live += 1
        self._idle.clear()
        try:
            if self.draining:
                raise Overloaded("the appliance is shutting down", retry_after=STOPPING_RETRY)
            stream = self.router.stream(request, trail, measured.began)
            async with aclosing(stream) as parts:
                async for some in parts:
                    measured.hear(some)
                    yield some
            status = "ok"
        except EdgeError as error:
            status = error.code
            raise
        finally:
            self.live -= 1
            if self.live == 0:
                self._idle.set()
            measured.end(door, trail, status)

    def measure_models(self) -> None:
        """Bring the gauges of all models up to date; called when somebody looks at them."""
        runners = self.runners.values()
        self.metrics.running.set(sum(r.stats.running for r in runners if r.stats))
        self.metrics.waiting.set(sum(runner.waiting for runner in runners))
        for name, runner in self.runners.items():
            stats, facts = runner.stats, runner.facts
            self.metrics.model_memory.labels(name).set(stats.memory_bytes if stats else 0)
            usage = stats.kv_used_tokens / stats.kv_total_tokens if stats else 0
            self.metrics.kv_usage.labels(name).set(usage)
            if facts is not None:
                self.metrics.model_info.labels(
                    name, facts.architecture, facts.backend, str(facts.gpu_layers), facts.kv_type
                ).set(1)

    async def drain(self, seconds: float) -> None:
        """Refuse new work and wait for the live requests, up to a time."""
        self.draining = True
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)


class _Measured:
    """One request in the metrics."""

    def __init__(self, metrics: Metrics, request: Request) -> None:
        self.metrics = metrics
        self.alone = request.answers == 1
        self.began = self.last_at = time.monotonic()
        self.seen_token = False

    def hear(self, parts: list[Part]) -> None:
        for part in parts:
            if isinstance(part.event, Delta):
                self._tokens()

    def end(self, door: str, trail: Trail, status: str) -> None:
        self.metrics.requests.labels(door, trail.route, status).inc()
        self.metrics.request_seconds.observe(time.monotonic() - self.began)

    def _tokens(self) -> None:
        now = time.monotonic()
        if not self.seen_token:
            self.seen_token = True
            self.metrics.first_token.observe(now - self.began)
        elif self.alone:
            self.metrics.inter_token.observe(now - self.last_at)
        self.last_at = now
