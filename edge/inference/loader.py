"""Which ONNX models are loaded: on demand, one at a time, beside the language models.

A model that waits for room has idle ones unloaded, the one that was used longest ago first. What is
in use is never unloaded; what nobody uses for the time to live is. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

from edge.errors import (
    BadModelFile,
    EdgeError,
    InternalError,
    ModelLoading,
    Overloaded,
)
from edge.fleet.memory import Claim
from edge.inference.entry import Entry
from edge.inference.memory import PROCESS_BYTES, predicted_bytes, refusal
from edge.metrics import Metrics
from edge.modelstore import locks
from edge.onnx.protocol import ModelSpec
from edge.runtime.guard import Room
from edge.runtime.onnx_runner import OnnxRunner
from edge.tensors import OnnxFacts

logger = logging.getLogger(__name__)

LOADING_RETRY = 5.0
"""Seconds after which to ask again for a model that is not loaded yet."""

Reason = Literal["room", "ttl", "removed"]


class Loader:
    """room: asked before each load. Entries stay when their model is unloaded."""

    def __init__(self, runner: OnnxRunner, metrics: Metrics, most_waiting: int) -> None:
        """most_waiting: requests that may wait for a model to be loaded."""
        self.entries: dict[str, Entry] = {}
        self.most_waiting = most_waiting
        self.room: Callable[[], Room] = lambda: Room(None)
        self._runner = runner
        self._metrics = metrics
        self._one = asyncio.Lock()
        self._leaving: asyncio.Task[None] | None = None
        self._stopped = False

    def claim(self) -> Claim:
        """Memory that the models were promised, their process included, and what they hold."""
        promised = sum(entry.promised_bytes for entry in self.entries.values())
        if not promised:
            return Claim()
        stats = self._runner.stats
        return Claim(promised + PROCESS_BYTES, stats.taken_bytes if stats is not None else 0)

    @asynccontextmanager
    async def use(self, spec: ModelSpec, patience: float | None) -> AsyncIterator[Entry]:
        """A loaded model, which stays as long as the block lasts; patience: seconds to wait for it.

        Raises `BadModelFile`, `ModelLoadFailed`, `ModelLoading` when patience is over, and
        `Overloaded` where too many wait already.
        """
        entry = self._entry(spec)
        if entry.state != "ready" and entry.users >= max(1, self.most_waiting):
            raise Overloaded(
                f"{entry.users} requests wait for {spec.name} to be loaded already",
                hint="come back later, or raise limits.max_waiting",
                retry_after=LOADING_RETRY,
            )
        ends = None if patience is None else time.monotonic() + patience
        entry.users += 1  # who waits for it keeps it, too
        try:
            while not (entry.state == "ready" and self._runner.holds(spec.key)):
                await self._step(entry, ends)
            yield entry
        finally:
            entry.users -= 1
            entry.used_at = time.monotonic()

    def make_way(self) -> bool:
        """Begin to unload the idle one that was used longest ago, for a language model.

        True while one is on its way out; False where there is none.
        """
        if self._leaving is None or self._leaving.done():
            idle = self._idle()
            if not idle or self._stopped:
                return False
            self._leaving = asyncio.create_task(self._leave(idle[0]), name="making way")
        return True

    async def sweep(self, installed: Collection[str], ttl: float | None) -> None:
        """Unload what nobody has used for `ttl` seconds, and what is not installed any more."""
        now = time.monotonic()
        for key, entry in list(self.entries.items()):
            gone = entry.spec.name not in installed
            late = ttl is not None and now >= entry.used_at + ttl
            if entry.idle and (gone or late):
                async with self._one:
                    if entry.idle:
                        await self._unload(entry, "removed" if gone else "ttl")
            if gone and entry.state in ("unloaded", "failed") and not entry.users:
                del self.entries[key]

    async def stop(self) -> None:
        """What waits for a model fails. The runner was told to stop."""
        self._stopped = True
        tasks = [self._leaving, *(entry.loading for entry in self.entries.values())]
        ending = [task for task in tasks if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for entry in self.entries.values():
            entry.went()

    def _entry(self, spec: ModelSpec) -> Entry:
        entry = self.entries.get(spec.key)
        if entry is None:
            entry = self.entries[spec.key] = Entry(spec)
        elif entry.spec != spec and entry.state in ("unloaded", "failed"):
            entry.spec, entry.retry_at = spec, 0.0  # what was wrong may have been put right
        return entry

    async def _step(self, entry: Entry, ends: float | None) -> None:
        """Begin to load it, or wait for whoever does."""
        if self._stopped:
            raise Overloaded("the appliance is shutting down", retry_after=LOADING_RETRY)
        if entry.loading is None:
            if entry.state == "ready":  # it was, and its worker could not be replaced with it
                entry.went()
            if (said := entry.refusal()) is not None:
                raise said
            name = f"loading {entry.spec.key}"
            entry.loading = asyncio.create_task(self._load(entry), name=name)
        loading = entry.loading
        await asyncio.wait({loading}, timeout=None if ends is None else ends - time.monotonic())
        if not loading.done():
            raise ModelLoading(
                f"{entry.spec.name} was not loaded in time",
                hint="come back later, or raise limits.max_wait_seconds",
                retry_after=LOADING_RETRY,
            )
        if entry.error is not None:
            raise entry.refusal() or entry.error

    async def _load(self, entry: Entry) -> None:
        spec = entry.spec
        try:
            async with self._one:
                await self._make_room(entry)
                await asyncio.to_thread(_keep, entry.held, Path(spec.file))
                facts = await self._runner.load(spec)
        except EdgeError as error:
            self._failed(entry, error)
        except Exception:
            logger.exception("%s could not be loaded", spec.key)
            self._failed(entry, InternalError("it could not be loaded; the log says why"))
        else:
            self._metrics.model_loads.labels(spec.name, "ok").inc()
            _announce(spec, facts)
            entry.came(facts)
        finally:
            entry.loading = None

    def _failed(self, entry: Entry, error: EdgeError) -> None:
        self._metrics.model_loads.labels(entry.spec.name, "failed").inc()
        logger.error("%s: not loaded: %s", entry.spec.key, error.message)
        entry.failed(error)

    async def _make_room(self, entry: Entry) -> None:
        """Promise it the memory that it will need, idle models unloaded for it if need be.

        Raises `OutOfMemory`.
        """
        size = await asyncio.to_thread(_size_bytes, entry.spec)
        predicted = predicted_bytes(size, entry.spec.most_rows)
        while True:
            room = self.room()
            needed = predicted if self._runner.pid is not None else predicted + PROCESS_BYTES
            if room.usable is None or needed <= room.usable:
                entry.promised_bytes = predicted
                return
            idle = self._idle()
            if not idle:
                raise refusal(entry.spec.key, size, needed, room)
            await self._unload(idle[0], "room")

    def _idle(self) -> list[Entry]:
        """That which was used longest ago first."""
        found = [entry for entry in self.entries.values() if entry.idle]
        return sorted(found, key=lambda entry: entry.used_at)

    async def _leave(self, entry: Entry) -> None:
        async with self._one:
            if entry.idle:
                await self._unload(entry, "room")

    async def _unload(self, entry: Entry, reason: Reason) -> None:
        logger.info("%s: unloading (%s)", entry.spec.key, reason)
        entry.unloading = True
        try:
            await self._runner.unload(entry.spec.key)
        finally:
            entry.unloading = False
            entry.went()
        self._metrics.model_unloads.labels(entry.spec.name, reason).inc()


def _keep(held: ExitStack, file: Path) -> None:
    """From whoever removes models. Waits for one that is at it."""
    if not held.enter_context(locks.shared(file)):
        raise BadModelFile(f"{file} was removed")


def _size_bytes(spec: ModelSpec) -> int:
    """Of all files of a version: the model's, and weights that it keeps in others."""
    try:
        files = [file for file in Path(spec.file).parent.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise BadModelFile(f"{spec.key} cannot be read: {error}") from None


def _announce(spec: ModelSpec, facts: OnnxFacts) -> None:
    batches = f"batches of {facts.max_batch}" if facts.max_batch else "no batches"
    logger.info(
        "%s: ready on %s in %.1f s, for %s, %s, %.0f MB",
        spec.key,
        facts.provider.upper(),
        facts.load_seconds,
        facts.task,
        batches,
        facts.memory_bytes / 1e6,
    )
    if spec.declared is not None and spec.declared.unknown:
        unknown = ", ".join(spec.declared.unknown)
        logger.warning("%s: config.pbtxt has what means nothing here: %s", spec.key, unknown)
    if spec.device == "gpu" and facts.provider == "cpu":
        logger.warning("%s: instance_group wants a GPU, and the CPU computes it", spec.key)
