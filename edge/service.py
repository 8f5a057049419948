"""The waist: every door asks here, and everything below answers through here.

`generate` is the life of a live request: its route, pieces of the answer, an end, and the books.
Closing the generator cancels the work within one step; there is no other way to cancel.
Owned by the event loop; no task and no thread of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from edge.answers import AnswerCache
from edge.cloud.upstream import Upstream
from edge.config import Config
from edge.errors import EdgeError, Overloaded
from edge.local import LocalModel
from edge.metrics import Metrics
from edge.remote import CloudModel
from edge.routing.router import Router
from edge.routing.target import Target
from edge.runtime.runner import ModelRunner
from edge.sync.reporter import Record, Reporter
from edge.toolcalls import gather, spell
from edge.types import Finished, Part, Request, ToolCall, Trail, Usage

STOPPING_RETRY = 5.0
"""Seconds after which to ask again an appliance that stops: it may be back."""


class Service:
    """All that can answer here behind one call.

    upstreams: by their names in the configuration. cache: of answers, None to compute them all.
    reporter: hears of all that was answered.
    """

    def __init__(
        self,
        config: Config,
        runners: Mapping[str, ModelRunner],
        metrics: Metrics,
        upstreams: Mapping[str, Upstream] | None = None,
        cache: AnswerCache | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.config = config
        self.runners = runners
        self.metrics = metrics
        local = [LocalModel(runner, config.limits, metrics) for runner in runners.values()]
        targets: dict[str, Target] = {target.name: target for target in local}
        self.clouds = [CloudModel(upstream) for upstream in (upstreams or {}).values()]
        targets |= {target.name: target for target in self.clouds}
        self.reporter = reporter
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
        account = _Account(self.metrics, request)
        status = "cancelled"
        self.live += 1
        self._idle.clear()
        try:
            if self.draining:
                raise Overloaded("the appliance is shutting down", retry_after=STOPPING_RETRY)
            stream = self.router.stream(request, trail, account.began)
            async with aclosing(stream) as parts:
                async for some in parts:
                    account.hear(some)
                    yield some
            status = "ok"
        except EdgeError as error:
            status = error.code
            raise
        finally:
            self.live -= 1
            if self.live == 0:
                self._idle.set()
            account.end(door, trail, status)
            # A kept request that has failed comes again; its end is the one that counts.
            if self.reporter is not None and (status == "ok" or not request.kept):
                record = account.record(door, trail, status)
                self.reporter.note(record, request, account.answers)

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
            self.metrics.prefix_entries.labels(name).set(stats.kept_prefixes if stats else 0)
            self.metrics.prefix_bytes.labels(name).set(stats.kept_bytes if stats else 0)
            if facts is not None:
                self.metrics.model_info.labels(
                    name, facts.architecture, facts.backend, str(facts.gpu_layers), facts.kv_type
                ).set(1)

    async def drain(self, seconds: float) -> None:
        """Refuse new work and wait for the live requests, up to a time."""
        self.draining = True
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)


class _Account:
    """What is to be told of one request: to the metrics, and to headquarters."""

    def __init__(self, metrics: Metrics, request: Request) -> None:
        self.metrics = metrics
        self.request = request
        self.began = self.last_at = time.monotonic()
        self.seen_text = False
        self.texts: defaultdict[int, str] = defaultdict(str)
        self.calls: defaultdict[int, list[ToolCall]] = defaultdict(list)
        self.usages: list[Usage] = []

    def hear(self, parts: list[Part]) -> None:
        for part in parts:
            if isinstance(part.event, Finished):
                self.usages.append(part.event.usage)
            else:
                self.texts[part.index] += part.event.text
                gather(self.calls[part.index], part.event.calls)
                self._measure()

    @property
    def answers(self) -> list[str]:
        """In their order, calls spelled out behind the text."""
        return [
            self.texts[index] + "".join(map(spell, self.calls[index]))
            for index in sorted(self.texts)
        ]

    def end(self, door: str, trail: Trail, status: str) -> None:
        self.metrics.requests.labels(door, trail.route, status).inc()
        self.metrics.request_seconds.observe(time.monotonic() - self.began)

    def record(self, door: str, trail: Trail, status: str) -> Record:
        return Record(
            id=self.request.id,
            time=time.time(),
            door=door,
            route=trail.route,
            model=trail.model,
            status=status,
            seconds=round(time.monotonic() - self.began, 3),
            prompt_tokens=sum(usage.prompt_tokens for usage in self.usages),
            cached_tokens=sum(usage.cached_tokens for usage in self.usages),
            completion_tokens=sum(usage.completion_tokens for usage in self.usages),
            attempts=trail.attempts,
        )

    def _measure(self) -> None:
        now = time.monotonic()
        if not self.seen_text:
            self.seen_text = True
            self.metrics.first_token.observe(now - self.began)
        elif self.request.answers == 1:
            self.metrics.inter_token.observe(now - self.last_at)
        self.last_at = now
