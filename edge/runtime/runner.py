"""One model: its worker, restarted when it dies, and the requests that live through it.

The runner keeps the token ids that each live request has already sent out. When the worker dies,
the requests are submitted to the next one with those tokens as a prefix, so that the client sees
a pause and not an error. A request that was running at two deaths is the likely cause: it fails
and is not tried again. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge.errors import EdgeError, OutOfMemory, WorkerCrashed, from_code
from edge.loops import Backoff
from edge.metrics import Metrics
from edge.runtime.guard import MemoryGuard, MemoryRecord
from edge.runtime.process import ABORTED, KILLED, WorkerProcess
from edge.runtime.protocol import (
    REPORTS,
    Cancel,
    Embed,
    Frame,
    Load,
    LoadFailed,
    Ready,
    Report,
    Stop,
    Submit,
)
from edge.tensors import Inference
from edge.types import (
    Accepted,
    Adapter,
    Delta,
    Embedded,
    EngineSettings,
    EngineStats,
    Event,
    Failed,
    Finished,
    Generation,
    ModelFacts,
    Started,
)

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "restarting", "failed", "stopped"]

WORKER = "edge.runtime.worker"

SPIN_VARIABLE = "GOMP_SPINCOUNT"
BARRIER_SPINS = "1000"
"""How often libgomp looks again before a thread that waits for another one sleeps, unless the
daemon's own environment says otherwise. Its own 300,000 last some milliseconds, for which the core
is kept from the thread that is waited for, at hundreds of barriers in a step, as soon as another
program runs. `./scripts/bench busy` compares: 7 times as fast beside one, 0.94 alone."""

HANG_SECONDS = 120.0
"""A worker that has sent nothing for this long computes forever, or is stopped."""

LOAD_SECONDS = 900.0
"""The same for loading, which may read many gigabytes from a slow disk."""

STABLE_SECONDS = 60.0
"""A worker that has lived this long starts with a clean record when it dies."""

MOST_DEATHS = 2

REFUSED = "refused"
"""How the life of a worker ended that was not begun."""


@dataclass
class Live:
    """A request between `submit` and its last event."""

    work: Generation | Inference
    sink: Callable[[Event], None]
    resumable: bool
    sent: list[int] = field(default_factory=list)
    reported: int = 0
    deaths: int = 0
    submitted: bool = False
    accepted: bool = False
    started: bool = False
    announced: bool = False

    @property
    def exposed(self) -> bool:
        """True while a death of the worker may be this request's doing: it is being prepared or
        computed, not merely waiting."""
        return self.submitted and (self.started or not self.accepted)


class ModelRunner:
    """Supervises the worker of one model. `run` it in a task; `submit` and `cancel` at any time."""

    def __init__(
        self,
        name: str,
        path: Path,
        settings: EngineSettings,
        metrics: Metrics,
        guard: MemoryGuard | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        """guard: asked before each load; without one the settings are loaded as they are."""
        self.name = name
        self.path = path
        self.adapter = adapter
        self.settings = settings
        self.metrics = metrics
        self.state: State = "loading"
        self.error: EdgeError | None = None
        self.facts: ModelFacts | None = None
        self.stats: EngineStats | None = None
        self.restarts = 0
        self.memory: MemoryRecord | None = None
        self.loaded = asyncio.Event()
        self.guard = guard
        self._loading = self._short = False
        self._live: dict[str, Live] = {}
        self._worker: WorkerProcess[Report] | None = None
        self._stop = asyncio.Event()
        metrics.worker_restarts.labels(name)

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return sum(1 for live in self._live.values() if not live.started)

    @property
    def live(self) -> int:
        return len(self._live)

    def submit(
        self,
        work: Generation | Inference,
        sink: Callable[[Event], None],
        *,
        resumable: bool = True,
    ) -> None:
        """Start a generation, or an inference of a model that embeds; `sink` gets its events, the
        last of them `Finished`, `Embedded` or `Failed`.

        resumable: go on after a death of the worker, even when text was already sent. A generation
        that names tokens to resume from goes on behind them.
        """
        sent = list(work.resume) if isinstance(work, Generation) else []
        live = Live(work, sink, resumable, sent)
        self._live[work.id] = live
        if self.state == "ready":
            self._send(live)

    def cancel(self, generation_id: str) -> None:
        """Stop a generation within one step; its sink hears nothing more."""
        live = self._live.pop(generation_id, None)
        if live is not None and live.submitted and self._worker is not None:
            self._worker.send(Cancel(generation_id))

    async def run(self) -> None:
        """Keep a worker alive until `stop`. Returns when it has ended."""
        backoff = Backoff()
        while not self._stop.is_set():
            began = time.monotonic()
            ending = await self._run_worker()
            if self._stop.is_set():
                break
            if self._goes_smaller(ending):
                continue
            self._mourn(ending)
            if time.monotonic() - began > STABLE_SECONDS:
                backoff.reset()
            delay = backoff.next() if backoff.failures or self.state == "failed" else 0.0
            backoff.failures = max(backoff.failures, 1)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
        self.state = "stopped"
        self._fail_all(WorkerCrashed("the appliance is shutting down", retry_after=5))

    async def stop(self) -> None:
        """End the worker; live requests fail. `run` returns soon after."""
        self._stop.set()
        if self._worker is not None:
            await self._worker.stop()

    async def _run_worker(self) -> str:
        """One life of a worker, if memory allows one; returns how it ended."""
        async with contextlib.AsyncExitStack() as turn:
            settings = self.settings
            if self.guard is not None:
                if not await self.guard.turn(self._stop):
                    return "stopped"
                turn.callback(self.guard.loading.release)
                try:
                    settings, self.memory = self.guard.fit()
                except OutOfMemory as error:
                    self.error = error
                    return REFUSED
            return await self._live_on(settings, turn)

    async def _live_on(self, settings: EngineSettings, turn: contextlib.AsyncExitStack) -> str:
        """turn: to load, which the next model has when this one is ready."""
        environment = {SPIN_VARIABLE: BARRIER_SPINS}
        self._worker = worker = await WorkerProcess.spawn(WORKER, REPORTS, Stop(), environment)
        self._loading, self._short = True, False
        try:
            if self._stop.is_set():  # while it was started, when there was nobody to tell
                return await worker.stop()
            worker.send(Load(self.name, str(self.path), settings, self.adapter))
            limit = LOAD_SECONDS
            while True:
                try:
                    report = await asyncio.wait_for(worker.receive(), limit)
                except asyncio.TimeoutError:
                    logger.error("%s: the worker has hung for %.0f s", self.name, limit)
                    worker.kill()
                    return f"hung, {await worker.wait()}"
                if isinstance(report, Frame):
                    self._dispatch(report)
                elif isinstance(report, Ready):
                    limit = HANG_SECONDS
                    self._loading = False
                    self._ready(report.facts)
                    await turn.aclose()
                elif isinstance(report, LoadFailed):
                    self.error = from_code(report.code, report.message)
                    self.error.hint = report.hint
                    self._short = isinstance(self.error, OutOfMemory)
                else:
                    return await worker.wait()
        finally:
            self._worker = None
            worker.kill()

    def _ready(self, facts: ModelFacts) -> None:
        again = self.facts is not None
        self.facts, self.error, self.state = facts, None, "ready"
        logger.info(
            "%s: ready on %s in %.1f s: %d slots of %d tokens, %d of %d layers on a GPU",
            self.name,
            facts.backend.upper(),
            facts.load_seconds,
            facts.slots,
            facts.context,
            facts.gpu_layers,
            facts.layers,
        )
        if self.memory is not None:
            logger.info(
                "%s: predicted to take %.0f MB at most (%s)%s",
                self.name,
                self.memory.predicted_bytes / 1e6,
                self.memory.plan,
                f"; {self.memory.note}" if self.memory.note else "",
            )
        if again and self._live:
            logger.info("%s: %d requests go on", self.name, len(self._live))
        for live in list(self._live.values()):
            self._send(live)
        self.loaded.set()

    def _send(self, live: Live) -> None:
        assert self._worker is not None
        live.submitted = True
        work = live.work
        if isinstance(work, Inference):
            self._worker.send(Embed(work))
            return
        if work.logprobs is not None:
            # Tokens of which only the id came are computed again: their log probabilities were
            # held back together with their text, and are lost.
            del live.sent[live.reported :]
        work.resume = list(live.sent)
        self._worker.send(Submit(work))

    def _dispatch(self, frame: Frame) -> None:
        self.stats = frame.stats
        if self.memory is not None:
            taken = frame.stats.taken_bytes
            self.memory.measured_bytes = max(self.memory.measured_bytes, taken)
        for event in frame.events:
            live = self._live.get(event.id)
            if live is None:
                continue
            if isinstance(event, Delta):
                live.sent += event.tokens
                live.reported += len(event.logprobs)
            elif isinstance(event, Accepted):
                live.accepted = True
                continue
            elif isinstance(event, Started):
                live.started = True
                if live.announced:
                    continue
                live.announced = True
            elif isinstance(event, (Finished, Embedded, Failed)):
                del self._live[event.id]
            live.sink(event)

    def _goes_smaller(self, ending: str) -> bool:
        """True where the load died for memory and is tried again with less, which is done once."""
        short = self._short or ending in (KILLED, ABORTED)
        died = ending != REFUSED and self._loading and short
        if not (died and self.guard and self.memory):
            return False
        if self.guard.smaller or not self.guard.shrink(self.memory):
            return False
        logger.error(
            "%s: loading died for memory (%s): once more with less than %s",
            self.name,
            self.error.message if self.error else ending,
            self.memory.plan,
        )
        self.error = None
        return True

    def _mourn(self, ending: str) -> None:
        """The worker died. Decide what becomes of those that it worked for."""
        self.stats = None
        if self.error is None and self.facts is None:
            self.error = WorkerCrashed(
                f"the worker died while loading {self.name}: {ending}",
                hint="check the free memory and the kernel's log; lower engine.slots or "
                "engine.context, or take a smaller model",
            )
        if self.error is not None:
            self.state = "failed"
            logger.error("%s: not loaded: %s", self.name, self.error.message)
            self.loaded.set()
            self._fail_all(self.error)
            return
        self.state = "restarting"
        self.restarts += 1
        self.metrics.worker_restarts.labels(self.name).inc()
        logger.error("%s: the worker died (%s); restarting", self.name, ending)
        for live in list(self._live.values()):
            if live.exposed:
                live.deaths += 1
            if live.deaths >= MOST_DEATHS:
                self._fail(live, WorkerCrashed("the model's worker died twice on this request"))
            elif live.sent and not live.resumable:
                self._fail(live, WorkerCrashed("the model's worker died in the middle"))
            else:
                live.submitted = live.accepted = live.started = False

    def _fail_all(self, error: EdgeError) -> None:
        for live in list(self._live.values()):
            self._fail(live, error)

    def _fail(self, live: Live, error: EdgeError) -> None:
        del self._live[live.work.id]
        live.sink(Failed(live.work.id, error.code, error.message, error.param))
