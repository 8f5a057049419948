"""The worker of all ONNX models: restarted when it dies, with the models and the requests it had.

There is a worker as long as there is a model to load. When it dies, the next one loads the same
models, and what was not answered is submitted again: an inference has no state, so that its caller
sees a pause and nothing else. What was being prepared or computed at two deaths is the likely
cause: it fails and is not tried again; and so does a model at whose loading the worker died twice.
Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Hashable, Iterable

import msgspec

from edge.energy.accountant import Accountant
from edge.errors import EdgeError, ModelLoadFailed, PayloadTooLarge, WorkerCrashed, from_code
from edge.loops import Backoff
from edge.metrics import Metrics
from edge.onnx.protocol import (
    REPORTS,
    Beat,
    Cancel,
    Compute,
    Computed,
    Loaded,
    LoadModel,
    ModelSpec,
    NotLoaded,
    Refused,
    Report,
    SetPace,
    Setup,
    Stage,
    Stop,
    Unloaded,
    UnloadModel,
    Up,
    Worked,
)
from edge.runtime.hang import LOAD_SECONDS, HangWatch, stepping
from edge.runtime.onnx_requests import Held, Live
from edge.runtime.process import WorkerProcess
from edge.tensors import Inference, OnnxFacts
from edge.types import Pace

logger = logging.getLogger(__name__)

WORKER = "edge.onnx.worker"
NAME = "onnx"
"""What the worker is called where those of other models have their names."""

ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false"}
"""Its threads would take cores from llama.cpp's, which wait for each other."""

BATCH_SECONDS = 120.0
"""A worker that computes one batch for longer is replaced."""

UNLOAD_SECONDS = 120.0
"""For which an unloaded model's memory is waited for."""

STABLE_SECONDS = 60.0
"""A worker that has lived this long starts with a clean record when it dies."""

MOST_DEATHS = 2


class OnnxRunner:
    """`run` it in a task. stats: what the worker takes now, None where there is none. energy: is
    told what is computed; another one where somebody measures."""

    name = NAME

    def __init__(self, setup: Setup, metrics: Metrics) -> None:
        self.setup = setup
        self.stats: Beat | None = None
        self.up: Up | None = None
        self.restarts = 0
        self.energy = Accountant()
        self._metrics = metrics
        self._models: dict[str, Held] = {}
        self._live: dict[str, Live] = {}
        self._billed: set[str] = set()
        self._unloading: dict[str, asyncio.Future[None]] = {}
        self._count = 0
        self._stillborn = 0
        self._retiring = False
        self._pace = Pace()
        self._worker: WorkerProcess[Report] | None = None
        self._watch: HangWatch | None = None
        self._busy = 0.0
        self._wanted = asyncio.Event()
        self._stop = asyncio.Event()
        metrics.worker_restarts.labels(NAME)

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def stuck(self) -> bool:
        """Its worker hangs, and not even SIGKILL ends it."""
        return self._watch is not None and self._watch.stuck

    @property
    def live(self) -> int:
        """Inferences that were not answered yet."""
        return len(self._live)

    @property
    def computing(self) -> int:
        return sum(live.stage == "computing" for live in self._live.values())

    def holds(self, key: str) -> bool:
        """False for what was never loaded, or could not be loaded into a new worker."""
        return key in self._models

    def loaded(self, key: str) -> bool:
        """False while it has to be loaded first, also into a new worker."""
        held = self._models.get(key)
        return held is not None and held.state == "loaded"

    async def load(self, spec: ModelSpec) -> OnnxFacts:
        """Have it in the worker until `unload`. Raises `BadModelFile` and `ModelLoadFailed`."""
        held = self._models[spec.key] = Held(spec)
        self._wanted.set()
        self._load_next()
        try:
            return await held.came
        except asyncio.CancelledError:
            await self.unload(spec.key)
            raise

    async def unload(self, key: str) -> None:
        """Returns when its memory is there again. What still asks for it fails."""
        held = self._models.pop(key, None)
        if held is None:
            return
        self._fail(
            self._of(key), WorkerCrashed(f"{held.spec.name} is being unloaded", retry_after=1)
        )
        if not self._models:
            await self._retire()
        elif self._worker is not None and held.state != "waiting":
            gone = self._unloading[key] = asyncio.get_running_loop().create_future()
            self._worker.send(UnloadModel(key))
            await asyncio.wait({gone}, timeout=UNLOAD_SECONDS)
        self._load_next()

    def submit(self, key: str, inference: Inference) -> Live:
        """Have it computed by a model that was loaded; wait for its `answer`, or `cancel` it."""
        self._count += 1
        live = Live(f"{self._count}", key, inference)
        self._live[live.number] = live
        if self.loaded(key):
            self._send(live)
        return live

    def cancel(self, live: Live) -> None:
        """Nothing more is heard of it; without effect on what was answered."""
        if self._live.pop(live.number, None) is None:
            return
        live.answer.cancel()
        self.energy.close(self._source(live.key), live.number, time.monotonic())
        if live.submitted and self._worker is not None:
            self._worker.send(Cancel(live.number))

    def keep_pace(self, pace: Pace) -> None:
        """Have its workers compute as hard as that from now on."""
        if pace != self._pace:
            self._pace = pace
            if self.up is not None and self._worker is not None:
                self._worker.send(SetPace(pace))

    async def run(self) -> None:
        """Keep a worker alive while there is a model to serve, until `stop`."""
        backoff = Backoff()
        while not self._stop.is_set():
            await self._either(self._wanted)
            if self._stop.is_set():
                break
            began = time.monotonic()
            ending = await self._live_once()
            if self._stop.is_set():
                break
            if self._retiring:
                self._retiring = False
                self._begin_anew()
                continue
            self._mourn(ending)
            if time.monotonic() - began > STABLE_SECONDS:
                backoff.reset()
            delay = backoff.next() if backoff.failures else 0.0
            backoff.failures = max(backoff.failures, 1)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
        self._give_up(WorkerCrashed("the appliance is shutting down", retry_after=5))

    async def stop(self) -> None:
        """End the worker; what is under way fails. `run` returns soon after."""
        self._stop.set()
        if self._worker is not None:
            await self._worker.stop()

    # One worker

    async def _live_once(self) -> str:
        """One life of a worker; returns how it ended."""
        self._worker = worker = await WorkerProcess.spawn(WORKER, REPORTS, Stop(), ENVIRONMENT)
        self._watch = watch = HangWatch("ONNX models", worker)
        self._busy = 0.0
        watching = asyncio.create_task(watch.run(), name="watch of the ONNX worker")
        try:
            if self._stop.is_set():  # while it was started, when there was nobody to tell
                return await worker.stop()
            worker.send(self.setup)
            while (report := await worker.receive()) is not None:
                if isinstance(report, Up):
                    watch.loaded(stepping(BATCH_SECONDS))
                if self._gets_on(report):
                    watch.heard()
                self._hear(worker, report)
            ending = await worker.wait()
            return ending if watch.reason is None else f"hung, {ending}"
        finally:
            watching.cancel()
            self._worker = self._watch = self.stats = self.up = None
            worker.kill()
            for key in self._billed:
                numbers = [live.number for live in self._of(key)]
                self.energy.lost(self._source(key), numbers, time.monotonic())
            while self._unloading:
                self._unloading.popitem()[1].set_result(None)

    def _gets_on(self, report: Report) -> bool:
        """False while one and the same batch is computed: those who speak are other threads. A load
        has a thread of its own too, and a bound of its own."""
        if not isinstance(report, Beat):
            return self._busy == 0
        same, self._busy = report.busy_seconds > self._busy > 0, report.busy_seconds
        return not same

    def _hear(self, worker: WorkerProcess[Report], report: Report) -> None:
        if isinstance(report, Stage):
            for number in report.ids:
                if live := self._live.get(number):
                    live.stage = report.stage
        elif isinstance(report, (Computed, Refused)):
            self._answered(report)
        elif isinstance(report, Worked):
            self.energy.worked(self._source(report.key), [report.span], report.until)
        elif isinstance(report, Beat):
            self.stats = report
            for key in self._billed:
                self.energy.worked(self._source(key), [], report.at - report.busy_seconds)
            self._look_for_long_loads(worker)
        elif isinstance(report, Up):
            self.up, self._stillborn = report, 0
            logger.info("onnxruntime %s: %s", report.version, ", ".join(report.providers))
            if self._pace != Pace():
                worker.send(SetPace(self._pace))
            self._load_next()
        elif isinstance(report, Unloaded):
            if gone := self._unloading.pop(report.key, None):
                gone.set_result(None)
        else:
            self._settled(report)

    def _answered(self, report: Computed | Refused) -> None:
        live = self._live.pop(report.id, None)
        if live is None:
            return
        source = self._source(live.key)
        live.energy = self.energy.estimate(source, live.number)
        self.energy.close(source, live.number)
        if live.answer.done():
            return
        if isinstance(report, Computed):
            live.answer.set_result(report)
        else:
            live.answer.set_exception(from_code(report.code, report.message, report.param))

    def _settled(self, report: Loaded | NotLoaded) -> None:
        """A load has ended."""
        held = self._models.get(report.key)
        if held is None:
            return
        if isinstance(report, Loaded):
            held.state, held.deaths = "loaded", 0
            if not held.came.done():
                held.came.set_result(report.facts)
            for live in self._of(report.key):
                self._send(live)
        else:
            error = from_code(report.code, report.message)
            error.hint = report.hint
            self._lose(held, error)
        self._load_next()

    def _look_for_long_loads(self, worker: WorkerProcess[Report]) -> None:
        now = time.monotonic()
        for held in self._models.values():
            if held.state == "loading" and now - held.since > LOAD_SECONDS:
                took = now - held.since
                logger.error("the ONNX worker hangs: %s loads for %.0f s", held.spec.key, took)
                worker.kill()

    def _load_next(self) -> None:
        """One at a time, so that a death tells whose doing it was."""
        if self._worker is None or self.up is None or self._retiring:
            return
        if any(held.state == "loading" for held in self._models.values()):
            return
        for held in self._models.values():
            if held.state == "waiting":
                held.state, held.since = "loading", time.monotonic()
                self._worker.send(LoadModel(held.spec))
                return

    def _send(self, live: Live) -> None:
        assert self._worker is not None
        inference = msgspec.structs.replace(live.inference, id=live.number)
        name, caller = self._models[live.key].spec.name, inference.caller
        self._billed.add(live.key)
        self.energy.open(self._source(live.key), live.number, name, caller, time.monotonic())
        try:
            self._worker.send(Compute(live.key, inference))
        except PayloadTooLarge as error:
            self._fail([live], error)
        else:
            live.submitted = True

    async def _retire(self) -> None:
        """No model is left: the process goes, and all its memory is there again."""
        self._wanted.clear()
        if self._worker is not None:
            self._retiring = True
            await self._worker.stop()

    # When it died

    def _mourn(self, ending: str) -> None:
        self.restarts += 1
        self._metrics.worker_restarts.labels(NAME).inc()
        logger.error("the ONNX worker died (%s); restarting", ending)
        begun = [live for live in self._live.values() if live.submitted]
        at_it = [live for live in begun if live.stage in ("preparing", "computing")]
        loading = [held for held in self._models.values() if held.state == "loading"]
        if not at_it and not loading:  # between two stages of one of them, or before the first
            at_it = begun
            self._stillborn += not begun
        for live in at_it:
            live.deaths += 1
        for held in loading:
            held.deaths += 1
        self._fail(
            [live for live in at_it if live.deaths >= MOST_DEATHS],
            WorkerCrashed("the ONNX worker died twice on this request"),
        )
        self._begin_anew()
        for held in list(self._models.values()):
            if held.deaths >= MOST_DEATHS:
                died = f"the ONNX worker died twice while loading it ({ending})"
                self._lose(held, ModelLoadFailed(died, hint="export or copy the model anew"))
        if self._stillborn >= MOST_DEATHS:
            failed = f"the ONNX worker does not start ({ending}); the log says why"
            self._give_up(ModelLoadFailed(failed, hint="edge doctor"))

    def _begin_anew(self) -> None:
        """There is no worker that knows anything."""
        for live in self._live.values():
            live.submitted, live.stage = False, None
        for held in self._models.values():
            held.state = "waiting"

    def _lose(self, held: Held, error: EdgeError) -> None:
        """It is not to be loaded any more."""
        self._models.pop(held.spec.key, None)
        if not held.came.done():
            held.came.set_exception(error)
        self._fail(self._of(held.spec.key), error)

    def _give_up(self, error: EdgeError) -> None:
        for held in list(self._models.values()):
            self._lose(held, error)
        self._fail(list(self._live.values()), error)
        self._wanted.clear()

    def _source(self, key: str) -> Hashable:
        """What computes a model, for the accountant."""
        return self, key

    def _of(self, key: str) -> list[Live]:
        return [live for live in self._live.values() if live.key == key]

    def _fail(self, lives: Iterable[Live], error: EdgeError) -> None:
        for live in lives:
            del self._live[live.number]
            self.energy.close(self._source(live.key), live.number, time.monotonic())
            if not live.answer.done():
                live.answer.set_exception(error)

    async def _either(self, event: asyncio.Event) -> None:
        """Wait for the event, or for the end."""
        waits = [asyncio.ensure_future(one.wait()) for one in (event, self._stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
