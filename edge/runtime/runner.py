"""One model: its worker, and another one when it dies or hangs.

What the model's requests have sent out outlives a worker (`requests.py`). Whether one that says
nothing still works is `hang.py`'s to tell. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edge.energy.accountant import Accountant
from edge.errors import EdgeError, OutOfMemory, WorkerCrashed, from_code
from edge.loops import Backoff
from edge.metrics import Metrics
from edge.runtime.guard import MemoryGuard, MemoryRecord
from edge.runtime.hang import HangWatch, stepping
from edge.runtime.process import ABORTED, KILLED, WorkerProcess
from edge.runtime.protocol import (
    REPORTS,
    Cancel,
    Frame,
    Load,
    LoadFailed,
    Ready,
    Report,
    SetPace,
    Stop,
)
from edge.runtime.requests import Live, LiveRequests
from edge.tensors import Inference
from edge.types import (
    Adapter,
    Embedded,
    EngineSettings,
    EngineStats,
    Event,
    Failed,
    Finished,
    Generation,
    ModelFacts,
    Pace,
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

ENVIRONMENT = {
    SPIN_VARIABLE: BARRIER_SPINS,
    # Else ggml has a debugger look at a worker that it aborts, for as long as that takes.
    "GGML_NO_BACKTRACE": "1",
}

STEP_SECONDS = 600.0
"""A worker that computes, or waits for a device, and says nothing for this long does so for ever: a
whole batch of a prompt takes a 7B model on four slow cores two minutes."""

STABLE_SECONDS = 60.0
"""A worker that has lived this long starts with a clean record when it dies."""

MOST_SHORTAGES = 2
"""Deaths for memory in a row, after which one that cannot be made smaller is not started again."""

REFUSED = "refused"
"""How the life of a worker ended that was not begun."""


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
        self.energy = Accountant()
        """Is told what is computed; another one where somebody measures."""
        self.pace = Pace()
        self._loading = self._short = self._weights = False
        self._shortage: str | None = None
        self._shortages = 0
        self._live = LiveRequests()
        self._worker: WorkerProcess[Report] | None = None
        self._watch: HangWatch | None = None
        self._stop = asyncio.Event()
        metrics.worker_restarts.labels(name)
        metrics.worker_shortages.labels(name)

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return self._live.waiting

    @property
    def live(self) -> int:
        return len(self._live)

    @property
    def short(self) -> bool:
        """Its last worker was refused memory that was thought to be there."""
        return self._short or self._shortage is not None

    @property
    def stuck(self) -> bool:
        """Its worker hangs, and not even SIGKILL ends it."""
        return self._watch is not None and self._watch.stuck

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
        live = self._live.add(work, sink, resumable=resumable)
        if self.state == "ready":
            self._send(live)

    def cancel(self, generation_id: str) -> None:
        """Stop a generation within one step; its sink hears nothing more."""
        live = self._live.remove(generation_id)
        if live is not None and live.submitted and self._worker is not None:
            self._worker.send(Cancel(generation_id))
        self.energy.close(self, generation_id, time.monotonic())

    def keep_pace(self, pace: Pace) -> None:
        """Have its workers work as hard as that from now on."""
        if pace != self.pace:
            self.pace = pace
            if self.state == "ready" and self._worker is not None:
                self._worker.send(SetPace(pace))

    async def run(self) -> None:
        """Keep a worker alive until `stop`. Returns when it has ended."""
        backoff = Backoff()
        while not self._stop.is_set():
            began = time.monotonic()
            ending = await self._run_worker()
            if self._stop.is_set():
                break
            if time.monotonic() - began > STABLE_SECONDS:
                backoff.reset()
                self._shortages = 0
            if self._goes_smaller(ending):
                continue
            self._mourn(ending)
            delay = backoff.next() if backoff.failures or self.state == "failed" else 0.0
            backoff.failures = max(backoff.failures, 1)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
        self.state = "stopped"
        self._live.fail_all(WorkerCrashed("the appliance is shutting down", retry_after=5))
        self._disclaim()

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
        self._worker = worker = await WorkerProcess.spawn(WORKER, REPORTS, Stop(), ENVIRONMENT)
        self._loading, self._short, self._weights = True, False, False
        self._shortage = None
        self._watch = watch = HangWatch(self.name, worker)
        watching = asyncio.create_task(watch.run(), name=f"watch of {self.name}")
        try:
            if self._stop.is_set():  # while it was started, when there was nobody to tell
                return await worker.stop()
            worker.send(Load(self.name, str(self.path), settings, self.adapter))
            while (report := await worker.receive()) is not None:
                watch.heard()
                if isinstance(report, Frame):
                    self._dispatch(report)
                elif isinstance(report, Ready):
                    watch.loaded(stepping(STEP_SECONDS))
                    self._loading = False
                    self._ready(report.facts)
                    await turn.aclose()
                else:
                    self._not_loaded(report)
            ending = await worker.wait()
            self._shortage = worker.shortage
            return ending if watch.reason is None else f"hung, {ending}"
        finally:
            watching.cancel()
            self._worker = self._watch = None
            worker.kill()

    def _not_loaded(self, report: LoadFailed) -> None:
        self.error = from_code(report.code, report.message)
        self.error.hint = report.hint
        self._short, self._weights = isinstance(self.error, OutOfMemory), report.weights

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
        if self.pace != Pace():
            assert self._worker is not None
            self._worker.send(SetPace(self.pace))
        for live in self._live:
            self._send(live)
        self.loaded.set()

    def _send(self, live: Live) -> None:
        assert self._worker is not None
        work = live.work
        self.energy.open(self, work.id, self.name, work.caller, time.monotonic())
        self._worker.send(live.command())

    def _dispatch(self, frame: Frame) -> None:
        self.stats = frame.stats
        self.energy.worked(self, frame.spans, frame.at)
        if self.memory is not None and not self.memory.card:
            taken = frame.stats.taken_bytes
            self.memory.measured_bytes = max(self.memory.measured_bytes, taken)
        for event in frame.events:
            self._bill(event)
            self._live.hear(event)

    def _bill(self, event: Event) -> None:
        """Write into what ends a request how much energy it took."""
        tokens = 0
        if isinstance(event, Finished):
            event.usage.energy = self.energy.estimate(self, event.id)
            tokens = event.usage.completion_tokens
        elif isinstance(event, Embedded):
            event.energy = self.energy.estimate(self, event.id)
        elif not isinstance(event, Failed):
            return
        self.energy.close(self, event.id, tokens=tokens)

    def _goes_smaller(self, ending: str) -> bool:
        """True where the load died for memory and is tried again with less: as long as there is
        less where the worker said so, and once where it only looks so."""
        died = ending != REFUSED and self._loading and (self.short or ending in (KILLED, ABORTED))
        if not died:
            return False
        self.metrics.worker_shortages.labels(self.name).inc()
        if not (self.guard and self.memory) or (self.guard.smaller and not self.short):
            return False
        if not self.guard.shrink(self.memory, "a load died for memory", weights=self._weights):
            return False
        why = self._shortage or (self.error.message if self.error else ending)
        logger.error(
            "%s: loading died for memory (%s): once more with less than %s",
            self.name,
            why,
            self.memory.plan,
        )
        self.error = None
        return True

    def _give_way(self, ending: str) -> None:
        """The worker died for memory in the middle of its work: the next one has to do with less.
        What cannot be made smaller is tried once more as it was, and then is an error."""
        self.metrics.worker_shortages.labels(self.name).inc()
        self._shortages += 1
        said = f"{ending}: {self._shortage}"
        if self.guard and self.memory and self.guard.shrink(self.memory, "its worker died for it"):
            plan = self.memory.plan
            logger.error("%s: out of memory (%s): goes on with less than %s", self.name, said, plan)
        elif self._shortages >= MOST_SHORTAGES:
            self.error = OutOfMemory(
                f"{self.name} finds no memory to compute in ({said})",
                hint="lower engine.slots or engine.context, or take a smaller model",
            )
        else:
            logger.error("%s: out of memory (%s): tried once more", self.name, said)

    def _mourn(self, ending: str) -> None:
        """The worker died, or there was none."""
        self.stats = None
        if ending != REFUSED and not self._loading and self._shortage is not None:
            self._give_way(ending)
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
            self._live.fail_all(self.error)
            self._disclaim()
            return
        self.state = "restarting"
        self.restarts += 1
        self.metrics.worker_restarts.labels(self.name).inc()
        logger.error("%s: the worker died (%s); restarting", self.name, ending)
        self._live.outlive()
        self._disclaim()

    def _disclaim(self) -> None:
        """Nothing more is heard of what the worker was computing."""
        self.energy.lost(self, self._live.ids, time.monotonic())
