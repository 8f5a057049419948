"""The ONNX models of this appliance: loaded when somebody asks, unloaded when nobody does.

    infer ─► installed? ─► loaded? ─► room? ─► the worker ─► answer, deadline, or cancelled
                              └─► load: one at a time, idle ones make way

Owned by the event loop. `run` it in a task. Nothing large is looked at here: texts, pictures and
tensors go to the worker as they came.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from edge.admission import Admission
from edge.config.doors import Limits
from edge.config.models import Onnx
from edge.config.tree import Config
from edge.errors import (
    BadModelFile,
    DeadlineExceeded,
    EdgeError,
    ModelLoading,
    ModelNotFound,
    Overloaded,
)
from edge.host import cpu
from edge.inference.entry import Entry
from edge.inference.loader import Loader
from edge.inference.place import Place
from edge.inference.status import (
    OnnxModelStatus,
    OnnxStatus,
    WorkerStatus,
    loaded_status,
    worker_status,
)
from edge.loops import Loop
from edge.metrics import Metrics
from edge.onnx.protocol import Computed, ModelSpec, Setup
from edge.repository.folder import ModelFolder, Repository
from edge.runtime.onnx_requests import Live
from edge.runtime.onnx_runner import OnnxRunner
from edge.tensors import (
    Inference,
    Inferred,
    OnnxFacts,
    PairWork,
    TensorWork,
    TextWork,
    Work,
)

TICK = 1.0
MOST_BYTES = 256 * 1024 * 1024
"""Of all inputs under way: they are in memory here and in the worker."""

MOST_ROWS_AHEAD = 2
"""Batches' worth of requests that may wait for a model before others count as waiting in line."""


class OnnxModels:
    """ttl: seconds after which an idle model is unloaded, None for never."""

    def __init__(
        self,
        repository: Repository,
        runner: OnnxRunner,
        settings: Onnx,
        limits: Limits,
        ttl: float | None,
        metrics: Metrics,
    ) -> None:
        self._repository = repository
        self.runner = runner
        self._settings = settings
        self._limits = limits
        self._ttl = ttl
        self._metrics = metrics
        self.loader = Loader(runner, metrics, limits.max_waiting)
        self._admissions: dict[str, Admission] = {}
        self._live: Counter[str] = Counter()
        self._bytes = 0
        self._loop = Loop("onnx models", self._turn, tick=TICK)
        self._stopped = False

    def reconfigure(self, limits: Limits) -> None:
        self._limits, self.loader.most_waiting = limits, limits.max_waiting
        for admission in self._admissions.values():
            admission.limits = limits

    # What there is

    def names(self) -> list[str]:
        """All that are installed, those with a fault too."""
        return self._repository.names()

    def task_of(self, name: str) -> str | None:
        """What its manifest says that it is for; None for one that is not installed, or faulty."""
        try:
            return self._repository.read(name).manifest.task
        except EdgeError:
            return None

    def versions(self, name: str) -> list[int]:
        """Those that may be asked for. Raises `ModelNotFound` and `BadModelFile`."""
        return self._repository.read(name).versions

    def folder(self, name: str) -> ModelFolder:
        """What its folder says. Raises `ModelNotFound` and `BadModelFile`."""
        return self._repository.read(name)

    def problem(self, name: str, version: int | None = None) -> EdgeError | None:
        """Why it cannot answer, None if it does or would be loaded. Raises `ModelNotFound`."""
        try:
            folder = self._repository.read(name)
        except BadModelFile as error:
            return error
        entry = self.loader.entries.get(_key(name, folder.version(version)))
        return None if entry is None else entry.error

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """It is loaded, or would be when somebody asks, as far as is known.

        Raises `ModelNotFound`.
        """
        return not self._stopped and self.problem(name, version) is None

    def place(self, name: str) -> Place:
        """For the queue of kept requests. Raises `ModelNotFound`."""
        if name not in self.names():
            raise ModelNotFound(f"the model `{name}` is not installed", param="model")
        entry = self._preferred(name)
        ready = entry is not None and entry.state == "ready"
        rows = entry.facts.max_batch if entry is not None and entry.facts is not None else 0
        room = MOST_ROWS_AHEAD * max(1, rows) if ready else 1
        return Place(name, room, ready, lambda: entry.refusal() if entry is not None else None)

    def status(self) -> OnnxStatus:
        """What operators see."""
        return OnnxStatus(self.worker, [self._status(name) for name in self.names()])

    @property
    def worker(self) -> WorkerStatus:
        """The process that all models share."""
        return worker_status(self.runner, self.loader.claim().promised)

    # What requests do

    async def facts(self, name: str, version: int | None = None) -> OnnxFacts:
        """Of a version, which is loaded if it has to be.

        Raises `ModelNotFound`, `BadModelFile`, `ModelLoadFailed` and `ModelLoading`.
        """
        async with self._use(name, version, self._limits.max_wait_seconds) as entry:
            assert entry.facts is not None
            return entry.facts

    async def infer(self, inference: Inference) -> Inferred:
        """Computed, or an `EdgeError`. Cancelling it ends the work."""
        size = _size_bytes(inference.work)
        if self._bytes and self._bytes + size > MOST_BYTES:
            raise Overloaded("too much input waits to be computed already", retry_after=1)
        self._bytes += size
        try:
            return await self._inferred(inference)
        finally:
            self._bytes -= size

    async def _inferred(self, inference: Inference) -> Inferred:
        began = time.monotonic()
        bounds = [] if inference.kept else [began + self._limits.max_wait_seconds]
        if inference.deadline is not None:
            bounds.append(inference.deadline)
        patience = max(0.0, min(bounds) - began) if bounds else None
        try:
            async with self._use(inference.model, inference.version, patience) as entry:
                return await self._answered(entry, inference, began)
        except ModelLoading:
            if inference.deadline is not None and time.monotonic() >= inference.deadline:
                raise _late() from None
            raise

    async def _answered(self, entry: Entry, inference: Inference, began: float) -> Inferred:
        assert entry.facts is not None
        key, admission = entry.spec.key, self._admission(entry.spec.key)
        admission.check(
            wanted=1,
            live=self._live[key],
            slots=MOST_ROWS_AHEAD * max(1, entry.facts.max_batch),
            urgent=inference.priority == "critical",
        )
        self._live[key] += 1
        live = self.runner.submit(key, inference)
        try:
            computed = await self._awaited(entry, inference, live, began)
        finally:
            self.runner.cancel(live)
            self._live[key] -= 1
        spec, seconds = entry.spec, computed.seconds
        admission.observe(time.monotonic() - began)
        self._metrics.inference_seconds.labels(spec.name).observe(time.monotonic() - began)
        self._metrics.inference_rows.labels(spec.name).observe(computed.rows)
        return Inferred(
            computed.result, spec.name, spec.version, seconds, computed.rows, live.energy
        )

    async def _awaited(
        self, entry: Entry, inference: Inference, live: Live, began: float
    ) -> Computed:
        """Within the deadline, and within `max_wait_seconds` where it was not begun with."""
        bound = began + self._limits.max_wait_seconds
        patient = inference.kept
        while True:
            ends = [end for end in (inference.deadline, None if patient else bound) if end]
            left = max(0.0, min(ends) - time.monotonic()) if ends else None
            await asyncio.wait({live.answer}, timeout=left)
            if live.answer.done():
                return live.answer.result()
            now = time.monotonic()
            if inference.deadline is not None and now >= inference.deadline:
                raise _late()
            if now >= bound and not patient:
                if live.stage != "computing":
                    slots = max(1, entry.facts.max_batch if entry.facts else 1)
                    admission = self._admission(entry.spec.key)
                    raise admission.waited_too_long(self._live[entry.spec.key], slots)
                patient = True

    def _admission(self, key: str) -> Admission:
        return self._admissions.setdefault(key, Admission(self._limits))

    def _use(
        self, name: str, version: int | None, patience: float | None
    ) -> AbstractAsyncContextManager[Entry]:
        folder = self._repository.read(name)
        return self.loader.use(self._spec(folder, folder.version(version)), patience)

    def _preferred(self, name: str) -> Entry | None:
        try:
            folder = self._repository.read(name)
        except EdgeError:
            return None
        return self.loader.entries.get(_key(name, folder.version(None)))

    def _spec(self, folder: ModelFolder, version: int) -> ModelSpec:
        delay = self._settings.delay_ms
        if folder.config is not None and folder.config.dynamic:
            delay = folder.config.delay_ms or 0.0
        if folder.manifest.batch.delay_ms is not None:
            delay = folder.manifest.batch.delay_ms
        file = folder.file(version)
        return ModelSpec(
            key=_key(folder.name, version),
            name=folder.name,
            version=version,
            folder=str(folder.path),
            file=str(file),
            stamp=_stamp(file),
            manifest=folder.manifest,
            declared=folder.config,
            default_batch=self._settings.max_batch,
            delay_ms=delay,
        )

    # The loop

    async def run(self) -> None:
        await asyncio.gather(self.runner.run(), self._loop.run())

    async def stop(self) -> None:
        """End the worker; what waits or is computed fails."""
        self._stopped = True
        self._loop.stop()
        await self.runner.stop()
        await self.loader.stop()

    async def _turn(self) -> None:
        await self.loader.sweep(self.names(), self._ttl)

    def _status(self, name: str) -> OnnxModelStatus:
        try:
            folder = self._repository.read(name)
        except EdgeError as error:
            return OnnxModelStatus(name, None, [], "failed", error.message, [])
        mine = [entry for entry in self.loader.entries.values() if entry.spec.name == name]
        preferred = self.loader.entries.get(_key(name, folder.version(None)))
        return OnnxModelStatus(
            name,
            folder.manifest.task,
            folder.versions,
            preferred.state if preferred is not None else "unloaded",
            preferred.error.message if preferred is not None and preferred.error else None,
            [loaded for entry in mine if (loaded := loaded_status(entry)) is not None],
        )


def onnx_models(config: Config, directory: Path, metrics: Metrics) -> OnnxModels:
    """Those in a directory, with a runner that has to be run with them."""
    settings = config.onnx
    threads = cpu.usable_cores() if settings.threads == "auto" else settings.threads
    runner = OnnxRunner(Setup(settings.provider, threads, settings.nice), metrics)
    ttl = config.models.ttl_seconds
    return OnnxModels(Repository(directory), runner, settings, config.limits, ttl, metrics)


def _stamp(file: Path) -> int:
    """One that could not be loaded is tried at once when it has another."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _key(name: str, version: int) -> str:
    return f"{name}/{version}"


def _size_bytes(work: Work) -> int:
    """About what it takes; characters for bytes."""
    if isinstance(work, TensorWork):
        return sum(len(tensor.data) for tensor in work.inputs)
    if isinstance(work, TextWork):
        return sum(len(text) for text in work.texts)
    if isinstance(work, PairWork):
        return len(work.query) + sum(len(document) for document in work.documents)
    return len(work.data)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed", param="edge.deadline_ms")
