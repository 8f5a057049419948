"""A model of this appliance as a target: from a request to the pieces of its answers.

Admission comes first, before any work. Owned by the event loop; closing the generator cancels the
work within one step.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from functools import partial

import msgspec

from edge.admission import Admission
from edge.config import Limits
from edge.errors import DeadlineExceeded, EdgeError, ModelLoading, from_code
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner
from edge.toolcalls import CallReader
from edge.types import Delta, Event, Failed, Finished, Generation, Part, Request, Route, Started

LOADING_RETRY = 5.0
"""Seconds after which to ask again for a model that loads."""


class LocalModel:
    """`name` is the target's, `model` the one that answers."""

    route: Route = "local"
    retries = 0

    def __init__(self, runner: ModelRunner, limits: Limits, metrics: Metrics) -> None:
        self.runner = runner
        self.name = f"local:{runner.name}"
        self.model = runner.name
        self.limits = limits
        self.metrics = metrics
        self.admission = Admission(limits)

    @property
    def identity(self) -> str:
        """Changes when another file gets the model's name."""
        try:
            facts = self.runner.path.stat()
        except OSError:
            return self.name
        return f"{self.name} {self.runner.path.resolve()} {facts.st_size} {facts.st_mtime_ns}"

    @property
    def latency(self) -> float | None:
        """Seconds to a first token, as far as a full house tells: a free slot is at hand."""
        facts = self.runner.facts
        if facts is None or self.runner.live < facts.slots:
            return 0.0
        return self.admission.retry_after(self.runner.live, facts.slots)

    def filled_in(self, request: Request) -> Request:
        """With what is decided here where the caller has left it open."""
        limit = request.max_tokens or self.limits.default_max_tokens
        return msgspec.structs.replace(request, max_tokens=limit)

    reachable = True

    @property
    def room(self) -> int:
        """All slots but one, which is left to live requests; none while those have them all."""
        facts = self.runner.facts
        if facts is None or self.runner.live >= facts.slots:
            return 0
        return max(1, facts.slots - 1)

    def unavailable(self) -> EdgeError | None:
        """Why it cannot be asked now, None if it can."""
        runner = self.runner
        if runner.facts is not None and runner.state != "failed":
            return None
        reason = f": {runner.error.message}" if runner.error else ""
        return ModelLoading(f"{runner.name} is not loaded yet{reason}", retry_after=LOADING_RETRY)

    async def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers as they come, several at a time when they pile up.

        The first yield comes with the first token. Raises an `EdgeError` when the request is
        refused, and when the answer cannot be completed. began: unused, for what is here is
        bounded by `limits.max_wait_seconds` and the deadline.
        """
        if refusal := self.unavailable():
            raise refusal
        assert self.runner.facts is not None
        self.admission.check(
            wanted=request.answers,
            live=self.runner.live,
            slots=self.runner.facts.slots,
            urgent=request.priority == "critical",
        )
        answer = _Answer(self, request)
        try:
            answer.start()
            while answer.open:
                parts, failure = await answer.next()
                if parts:
                    yield parts
                if failure is not None:
                    raise failure
        finally:
            answer.close()


class _Answer:
    """One request on its way through a runner: its generations feed one queue."""

    def __init__(self, target: LocalModel, request: Request) -> None:
        self.runner = target.runner
        self.request = request
        self.limits = target.limits
        self.metrics = target.metrics
        self.admission = target.admission
        self.queue: asyncio.Queue[tuple[int, Event | EdgeError]] = asyncio.Queue()
        self.open = {f"{request.id}.{index}": index for index in range(request.answers)}
        self.deadline: float | None = None
        if request.deadline is not None:
            self.deadline = time.monotonic() + request.deadline
        tools = request.tools
        calling = tools is not None and tools.callable
        self.readers = {index: CallReader() for index in self.open.values() if calling}
        self.started_at: float | None = None
        self.timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        self._set_timers()
        for generation_id, index in self.open.items():
            self.runner.submit(
                self._generation(generation_id, index),
                partial(self._put, index),
                resumable=self.request.on_cut == "continue",
            )

    async def next(self) -> tuple[list[Part], EdgeError | None]:
        """All that is there, when there is something, and the failure that comes after it."""
        parts: list[Part] = []
        try:
            parts += self._part(*await self.queue.get())
            while not self.queue.empty():
                parts += self._part(*self.queue.get_nowait())
        except EdgeError as failure:
            return parts, failure
        return parts, None

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()
        for generation_id in self.open:
            self.runner.cancel(generation_id)
        if self.started_at is not None:
            self.admission.observe(time.monotonic() - self.started_at)

    def _set_timers(self) -> None:
        """Times are events like all others, so that a token costs no timer of its own.

        The engine knows the deadline too, and computes nothing for an answer that is past it. It
        is told here, because there may be no worker just then, or one that hangs. Whoever is first
        ends the answer, and nobody listens to the other. Only here is it known which answers
        belong to one request, and so whether it still waits for its first slot.
        """
        loop = asyncio.get_running_loop()
        if self.request.deadline is not None:
            self.timers.append(loop.call_later(self.request.deadline, self._put, -1, _late()))
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
            caller=request.caller,
            grammar=request.grammar,
            deadline=self.deadline,
            shared_prefix=request.shared_prefix,
        )

    def _part(self, index: int, event: Event | EdgeError) -> list[Part]:
        if isinstance(event, EdgeError):
            raise event
        if isinstance(event, Failed):
            if event.code == DeadlineExceeded.code:
                raise _late()
            raise from_code(event.code, event.message, event.param)
        if isinstance(event, Started):
            if self.started_at is None:
                self.started_at = time.monotonic()
        elif isinstance(event, Delta):
            self.metrics.generation_tokens.inc(len(event.tokens))
            return [Part(index, self._read(index, event))]
        elif isinstance(event, Finished):
            del self.open[event.id]
            self.metrics.prompt_tokens.inc(event.usage.prompt_tokens)
            self.metrics.prefix_queries.inc(event.usage.prompt_tokens)
            self.metrics.prefix_hits.inc(event.usage.cached_tokens)
            self.metrics.forced_tokens.inc(event.usage.forced_tokens)
            self.metrics.draft_tokens.inc(event.usage.drafted_tokens)
            self.metrics.accepted_tokens.inc(event.usage.accepted_tokens)
            return self._ending(index, event)
        return []

    def _read(self, index: int, delta: Delta) -> Delta:
        """With the calls of tools taken out of the text."""
        reader = self.readers.get(index)
        if reader is None:
            return delta
        text, calls = reader.feed(delta.text)
        return msgspec.structs.replace(delta, text=text, calls=calls)

    def _ending(self, index: int, finished: Finished) -> list[Part]:
        reader = self.readers.get(index)
        if reader is None:
            return [Part(index, finished)]
        text, reason = reader.finish(finished.reason)
        end = Part(index, msgspec.structs.replace(finished, reason=reason))
        return [Part(index, Delta(finished.id, [], text)), end] if text else [end]


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed", param="edge.deadline_ms")
