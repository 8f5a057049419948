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

from edge.answers.cache import AnswerCache
from edge.aside import Aside
from edge.books import Account, Books
from edge.ceiling import MemoryCeiling
from edge.cloud.upstream import Upstream
from edge.config.live import Reloads
from edge.config.place import state_dir
from edge.config.tree import Config
from edge.embedders import Embedders
from edge.errors import EdgeError, Overloaded
from edge.fleet.fleet import Fleet
from edge.heat.governor import Governor
from edge.host.root import host_root, host_speed
from edge.host.sensors import Sensors
from edge.inference import stages
from edge.inference.models import OnnxModels
from edge.local import Targets
from edge.remote import CloudModel
from edge.routing.router import Router
from edge.tensors import Inference, Inferred, TextWork
from edge.texts import TextModels
from edge.types import BrokerFacts, Pace, Part, Request, Trail
from edge.updates import slots
from edge.updates.watch import UpdateWatch

STOPPING_RETRY = 5.0
"""Seconds after which to ask again an appliance that stops: it may be back."""


class Service:
    """All that can answer here behind one call.

    onnx: models that do not generate. books: are told of every request. upstreams: by their names
    in the configuration. cache: of answers, None to compute them all.
    """

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        onnx: OnnxModels,
        books: Books,
        upstreams: Mapping[str, Upstream] | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        self.config = config
        self._books = books
        self.metrics = metrics = books.metrics
        self.audit = books.audit
        self.fleet = fleet
        self.onnx = onnx
        self._embedders = Embedders(fleet, config.limits, metrics)
        self.texts = TextModels(self._embedders, onnx, config.models.embedding)
        self.ceiling = MemoryCeiling(config.limits, metrics)
        self.aside = Aside()
        self.energy = books.energy
        self.sensors = Sensors(host_root(), host_speed())
        self.sensors.used, self.energy.busy = self.energy.measured, self.sensors.attend
        self.updates = UpdateWatch(slots.installed(), books.audit, state_dir())
        self._upstreams: Mapping[str, Upstream] = {} if upstreams is None else upstreams
        self.clouds = [CloudModel(upstream) for upstream in self._upstreams.values()]
        self.heat = Governor(config.heat, config.power, self.sensors, metrics, self._keep_pace)
        self._targets = Targets(self.clouds, fleet, config.limits, metrics, self.heat)
        self.router = Router(config, self._targets, cache, self.heat.goes_away)
        self.started_at = time.time()
        self.reloads = Reloads()
        self.broker: BrokerFacts | None = None
        """Kept up to date by the MQTT door; None where there is none."""

        self.live = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def reconfigure(self, config: Config) -> None:
        """Take over the live keys (`config/live.py`), at one moment for all requests to come;
        those that have begun end as they began. `upstreams` have changed already."""
        self.config = config
        self.clouds = [CloudModel(upstream) for upstream in self._upstreams.values()]
        self._targets.reconfigure(self.clouds, config.limits)
        self._embedders.reconfigure(config.limits)
        self.onnx.reconfigure(config.limits)
        self.ceiling.limits = config.limits
        self.heat.reconfigure(config.heat, config.power)
        self.router.reconfigure(config)

    def _keep_pace(self, pace: Pace) -> None:
        self.fleet.keep_pace(pace)
        self.onnx.runner.keep_pace(pace)

    @property
    def ready(self) -> bool:
        """True when every model that is to be loaded can answer now."""
        return not self.draining and self.fleet.ready

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
        account = Account(self.metrics, request)
        status = "cancelled"
        self.live += 1
        self._idle.clear()
        try:
            if self.draining:
                raise Overloaded("the appliance is shutting down", retry_after=STOPPING_RETRY)
            self.ceiling.check(request.priority)
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
            self._ended()
            self._books.close(account, door, trail, status)

    async def infer(self, inference: Inference, door: str) -> Inferred:
        """What a model that does not generate makes of it. Raises an `EdgeError`; cancelling it
        ends the work."""
        began, status = time.monotonic(), "cancelled"
        inferred: Inferred | None = None
        self.live += 1
        self._idle.clear()
        try:
            if self.draining:
                raise Overloaded("the appliance is shutting down", retry_after=STOPPING_RETRY)
            self.ceiling.check(inference.priority)
            kept, may_wait = inference.kept, inference.may_wait
            self.heat.check(inference.priority, kept=kept, may_wait=may_wait)
            if isinstance(inference.work, TextWork):
                inferred = await self.texts.infer(inference)
            else:
                inferred = await stages.infer(self.onnx, inference)
            status = "ok"
            return inferred
        except EdgeError as error:
            status = error.code
            raise
        finally:
            self._ended()
            seconds = time.monotonic() - began
            self._books.close_inference(inference, inferred, door, status, seconds)

    def _ended(self) -> None:
        self.live -= 1
        if self.live == 0:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Refuse new work and wait for the live requests, up to a time."""
        self.draining = True
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
