"""The waist: every door asks here, and everything below answers through here.

`generate` is the life of a live request: admission, the model's runner, pieces of the answer, an
end. Closing the generator cancels the work within one step; there is no other way to cancel.
Owned by the event loop; no task and no thread of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from functools import partial

import msgspec

from edge.admission import Admission
from edge.config import Config
from edge.errors import (
    DeadlineExceeded,
    EdgeError,
    ModelLoading,
    ModelNotFound,
    NoRoute,
    Overloaded,
    from_code,
)
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner
from edge.types import Delta, Event, Failed, Finished, Generation, Part, Request, Started

LOADING_RETRY = 5.0
"""Seconds after which to ask again for a model that loads."""


class Service:
    """All models of this appliance behind one call."""

    def __init__(
        self, config: Config, runners: Mapping[str, ModelRunner], metrics: Metrics
    ) -> None:
        self.config = config
        self.runners = runners
        self.metrics = metrics
        self.admissions = {name: Admission(config.limits) for name in runners}
        self.started_at = time.time()
        self.live = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """True when every served model can answer now."""
        return not self.draining and all(r.state == "ready" for r in self.runners.values())

    @property
    def slots(self) -> int:
        """Sequences that all loaded models can compute at once."""
        return sum(runner.facts.slots for runner in self.runners.values() if runner.facts)

    def runner(self, model: str | None) -> ModelRunner:
        """The runner of a model by the name that a request gave. Never a substitute."""
        name = self.config.models.default if model in (None, "", "default") else model
        runner = self.runners.get(name or "")
        if runner is None:
            raise ModelNotFound(
                f"the model `{name}` is not served here; these are: {', '.join(self.runners)}",
                param="model",
            )
        return runner

    def check(self, request: Request) -> ModelRunner:
        """The runner for a request that can be answered here, now or later.

        Raises `ModelNotFound` and `NoRoute`, which no waiting mends.
        """
        if request.route == "cloud":
            raise NoRoute(
                "no cloud target is configured, and this request allows nothing else",
                param="edge.route",
                retry_after=LOADING_RETRY,
            )
        return self.runner(request.model)

    async def generate(self, request: Request, door: str) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers as they come, several at a time when they pile up.

        The first yield comes with the first token. Raises an `EdgeError` before it when the
        request is refused, and after it when the answer cannot be completed.
        """
        began = time.monotonic()
        status = "cancelled"
        self.live += 1
        self._idle.clear()
        try:
            runner = self._admit(request)
            answer = _Answer(self, runner, request)
            async with aclosing(answer.parts()) as parts:
                async for some in parts:
                    yield some
            status = "ok"
        except EdgeError as error:
            status = error.code
            raise
        finally:
            self.live -= 1
            if self.live == 0:
                self._idle.set()
            self.metrics.requests.labels(door, "local", status).inc()
            self.metrics.request_seconds.observe(time.monotonic() - began)

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

    def _admit(self, request: Request) -> ModelRunner:
        if self.draining:
            raise Overloaded("the appliance is shutting down", retry_after=LOADING_RETRY)
        runner = self.check(request)
        if runner.facts is None or runner.state == "failed":
            reason = f": {runner.error.message}" if runner.error else ""
            raise ModelLoading(
                f"{runner.name} is not loaded yet{reason}", retry_after=LOADING_RETRY
            )
        admission = self.admissions[runner.name]
        admission.check(wanted=request.answers, live=runner.live, slots=runner.facts.slots)
        return runner


class _Answer:
    """One request on its way through a runner: its generations feed one queue."""

    def __init__(self, service: Service, runner: ModelRunner, request: Request) -> None:
        self.runner = runner
        self.request = request
        self.limits = service.config.limits
        self.metrics = service.metrics
        self.admission = service.admissions[runner.name]
        self.queue: asyncio.Queue[tuple[int, Event | EdgeError]] = asyncio.Queue()
        self.open = {f"{request.id}.{index}": index for index in range(request.answers)}
        self.began = self.last_token_at = time.monotonic()
        self.started_at: float | None = None
        self.seen_token = False
        self.timers: list[asyncio.TimerHandle] = []

    async def parts(self) -> AsyncGenerator[list[Part], None]:
        self._set_timers()
        try:
            for generation_id, index in self.open.items():
                self.runner.submit(
                    self._generation(generation_id, index),
                    partial(self._put, index),
                    resumable=self.request.on_cut == "continue",
                )
            while self.open:
                parts = [*self._part(*await self.queue.get())]
                while not self.queue.empty():
                    parts += self._part(*self.queue.get_nowait())
                if parts:
                    yield parts
        finally:
            for timer in self.timers:
                timer.cancel()
            for generation_id in self.open:
                self.runner.cancel(generation_id)
            if self.started_at is not None:
                self.admission.observe(time.monotonic() - self.started_at)

    def _set_timers(self) -> None:
        """Times are events like all others, so that a token costs no timer of its own."""
        loop = asyncio.get_running_loop()
        deadline = self.request.deadline
        if deadline is not None:
            error = DeadlineExceeded(
                f"the deadline of {deadline * 1000:.0f} ms passed", param="edge.deadline_ms"
            )
            self.timers.append(loop.call_later(deadline, self._put, -1, error))
        self.timers.append(loop.call_later(self.limits.max_wait_seconds, self._give_up_waiting))

    def _give_up_waiting(self) -> None:
        if self.started_at is None:
            slots = self.runner.facts.slots if self.runner.facts else 1
            self._put(-1, self.admission.waited_too_long(self.runner.live, slots))

    def _put(self, index: int, event: Event | EdgeError) -> None:
        self.queue.put_nowait((index, event))

    def _generation(self, generation_id: str, index: int) -> Generation:
        request = self.request
        sampling = request.sampling
        # The seed is chosen here and not in the worker, so that an answer that has to be resumed
        # goes on with the same random numbers.
        seed = random.getrandbits(32) if sampling.seed is None else sampling.seed + index
        return Generation(
            id=generation_id,
            prompt=request.prompts[index // request.n],
            sampling=msgspec.structs.replace(sampling, seed=seed & 0xFFFFFFFF),
            max_tokens=request.max_tokens or self.limits.default_max_tokens,
            stop=request.stop,
            ignore_eos=request.ignore_eos,
            logprobs=request.logprobs,
            priority=request.priority,
        )

    def _part(self, index: int, event: Event | EdgeError) -> list[Part]:
        if isinstance(event, EdgeError):
            raise event
        if isinstance(event, Failed):
            raise from_code(event.code, event.message, event.param)
        if isinstance(event, Started):
            if self.started_at is None:
                self.started_at = time.monotonic()
            return []
        if isinstance(event, Delta):
            self._measure_token(len(event.tokens))
            return [Part(index, event)]
        if isinstance(event, Finished):
            del self.open[event.id]
            usage = event.usage
            self.metrics.prompt_tokens.inc(usage.prompt_tokens)
            self.metrics.prefix_queries.inc(usage.prompt_tokens)
            self.metrics.prefix_hits.inc(usage.cached_tokens)
            return [Part(index, event)]
        return []

    def _measure_token(self, count: int) -> None:
        now = time.monotonic()
        if not self.seen_token:
            self.seen_token = True
            self.metrics.first_token.observe(now - self.began)
        elif self.request.answers == 1:
            self.metrics.inter_token.observe(now - self.last_token_at)
        self.last_token_at = now
        self.metrics.generation_tokens.inc(count)
