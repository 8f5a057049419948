"""Models of the fleet that make vectors of texts: which of those that are installed do, and from a
request to its vectors.

Admission comes first, before any work. Owned by the event loop; cancelling ends the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge.admission import Admission
from edge.config.doors import Limits
from edge.errors import DeadlineExceeded, EdgeError, InvalidRequest, ModelLoading, from_code
from edge.fleet.fleet import LOADING_RETRY, Fleet
from edge.metrics import Metrics
from edge.modelstore.gguf import read_header
from edge.runtime.runner import ModelRunner
from edge.tensors import Inference, Inferred, Vectors
from edge.types import Embedded, Energy, Event, Failed, Started

Stamp = tuple[Path, int, int]
"""A file, its size and when it was written: what it says is read once."""


class Embedders:
    """All of a fleet's models that embed."""

    def __init__(self, fleet: Fleet, limits: Limits, metrics: Metrics) -> None:
        self._fleet = fleet
        self._limits = limits
        self._metrics = metrics
        self._known: dict[Stamp, bool] = {}
        self._admissions: dict[str, Admission] = {}

    def reconfigure(self, limits: Limits) -> None:
        self._limits = limits
        for admission in self._admissions.values():
            admission.limits = limits

    async def names(self) -> list[str]:
        """All that embed."""
        return [name for name in self._fleet.names() if await self.embeds(name)]

    def has(self, name: str) -> bool:
        """It is a model of the fleet, whether or not it embeds."""
        return self._fleet.find(name) is not None

    async def embeds(self, name: str) -> bool:
        """As the header of its file says. False for one that is not installed, or cannot be read:
        who asks for it by name is told why."""
        path = self._fleet.path(name)
        if path is None:
            return False
        try:
            facts = path.stat()
            stamp = path, facts.st_size, facts.st_mtime_ns
            if stamp not in self._known:
                header = await asyncio.to_thread(read_header, path)
                self._known[stamp] = header.embeds
        except (OSError, EdgeError):
            return False
        return self._known[stamp]

    async def infer(self, inference: Inference) -> Inferred:
        """The vectors of its texts. Raises an `EdgeError`, also for a model that does not embed,
        which is not loaded for that."""
        name = inference.model
        if not await self.embeds(name):
            raise InvalidRequest(
                f"{name} generates text, and makes no vectors of it",
                param="model",
                hint="name a model that embeds, such as all-minilm-l6-v2",
            )
        began = time.monotonic()
        urgent = inference.priority == "critical"
        bounds = [] if inference.kept else [began + self._limits.max_wait_seconds]
        bounds += [] if inference.deadline is None else [inference.deadline]
        patience = max(0.0, min(bounds) - began) if bounds else None
        if refusal := self._fleet.refusal(name):
            raise refusal
        try:
            async with self._fleet.use(name, patience, urgent=urgent) as runner:
                return await self._answered(runner, inference, began)
        except ModelLoading:
            if inference.deadline is not None and time.monotonic() >= inference.deadline:
                raise _late() from None
            raise

    async def _answered(self, runner: ModelRunner, inference: Inference, began: float) -> Inferred:
        name = inference.model
        if runner.facts is None:
            raise ModelLoading(f"{name} is not loaded yet", retry_after=LOADING_RETRY)
        admission = self._admissions.setdefault(name, Admission(self._limits))
        slots = runner.facts.slots
        admission.check(
            wanted=1, live=runner.live, slots=slots, urgent=inference.priority == "critical"
        )
        answer = _Answer()
        loop = asyncio.get_running_loop()
        timers = []
        if inference.deadline is not None:
            left = max(0.0, inference.deadline - time.monotonic())
            timers.append(loop.call_later(left, answer.fail, _late()))
        if not inference.kept:
            left = max(0.0, began + self._limits.max_wait_seconds - time.monotonic())
            tired = partial(admission.waited_too_long, runner.live, slots)
            timers.append(loop.call_later(left, answer.give_up_waiting, tired))
        runner.submit(inference, answer.hear)
        try:
            embedded = await answer.future
        finally:
            runner.cancel(inference.id)
            for timer in timers:
                timer.cancel()
        seconds = time.monotonic() - (answer.started_at or began)
        admission.observe(seconds)
        self._metrics.prompt_tokens.inc(embedded.tokens)
        vectors = Vectors(embedded.width, embedded.data, embedded.tokens)
        rows = len(embedded.data) // (4 * embedded.width)
        return Inferred(vectors, name, 1, seconds, rows, embedded.energy or Energy())


class _Answer:
    """What is heard of one request."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        self.started_at: float | None = None

    def hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started_at = time.monotonic()
        elif isinstance(event, Failed):
            late = event.code == DeadlineExceeded.code
            self.fail(_late() if late else from_code(event.code, event.message, event.param))
        elif isinstance(event, Embedded) and not self.future.done():
            self.future.set_result(event)

    def fail(self, error: EdgeError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def give_up_waiting(self, error: Callable[[], EdgeError]) -> None:
        if self.started_at is None:
            self.fail(error())


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed", param="edge.deadline_ms")
