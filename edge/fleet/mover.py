"""What is done to one model at a time: its file opened, its worker loaded or ended.

Says how it went on the model and in the metrics; when something is done, and to whom, is the
fleet's to say. Owned by the `Fleet`, on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from edge.errors import EdgeError, InternalError, ModelLoadFailed, OutOfMemory
from edge.fleet.memory import Memory
from edge.fleet.model import Model, Resident
from edge.fleet.roster import Roster
from edge.fleet.rules import Source
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner

logger = logging.getLogger(__name__)

Reason = Literal["room", "ttl"]


class Mover:
    """wake: called when one that was retired has ended, and its memory is there again."""

    def __init__(
        self,
        source: Source,
        roster: Roster,
        memory: Memory,
        metrics: Metrics,
        wake: Callable[[], None],
    ) -> None:
        self._source = source
        self._roster = roster
        self._memory = memory
        self._metrics = metrics
        self._wake = wake
        self._loading = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self.stopping = False
        """Whoever ends now was told to, and has not failed."""

    def prepare(self, name: str, version: int) -> Resident:
        """That version of a name, checked and not loaded. Waits for the disk."""
        key = f"{name}@{version}"
        model = Model(key)  # for the arithmetic alone
        room = partial(self._memory.room, model)
        model.resident = Resident(*self._source.prepare(key, room, self._loading))
        return model.resident

    async def open(self, model: Model) -> None:
        """Make a runner, so that it can be asked how much memory it needs."""
        room = partial(self._memory.room, model)
        try:
            runner, held = await asyncio.to_thread(
                self._source.prepare, model.name, room, self._loading
            )
        except EdgeError as error:
            self.fail(model, error)
        except Exception:
            logger.exception("%s could not be opened", model.name)
            self.fail(model, InternalError("the file could not be opened; the log says how"))
        else:
            model.resident = Resident(runner, held)

    async def load(self, model: Model, squeeze: bool) -> None:
        resident = model.resident
        assert resident is not None
        runner = resident.runner
        if runner.guard is not None:
            runner.guard.squeeze = squeeze
        resident.task = asyncio.create_task(runner.run(), name=f"model {model.name}")
        loaded = asyncio.create_task(runner.loaded.wait())
        await asyncio.wait({loaded, resident.task}, return_when=asyncio.FIRST_COMPLETED)
        loaded.cancel()
        if self.stopping:
            return
        if runner.state != "ready":
            error = runner.error or ModelLoadFailed(f"{model.name} was stopped while it loaded")
            await self._ended(model)
            if not self._others_may_help(model, runner):
                self.fail(model, error)
            return
        resident.ready_at = resident.used_at = time.monotonic()
        model.error = model.start_since = model.fetch_since = None
        model.backoff.reset()
        self._metrics.model_loads.labels(model.name, "ok").inc()

    def _others_may_help(self, model: Model, runner: ModelRunner) -> bool:
        """True where it was refused memory that was thought to be there, and others have some: what
        was refused is not believed in any more, so that they make way before it is tried again."""
        record = runner.memory
        if not runner.short or record is None or record.available_bytes is None or record.card:
            return False
        if not self._roster.evictable():
            return False
        now = time.monotonic()
        too_much = record.available_bytes - record.predicted_bytes + model.doubted(now)
        if not model.doubt(max(0, too_much), now):
            return False
        self._metrics.model_loads.labels(model.name, "failed").inc()
        logger.error("%s: refused memory that seemed to be there: others make way", model.name)
        return True

    async def unload(self, model: Model, reason: Reason) -> None:
        logger.info("%s: unloading (%s)", model.name, reason)
        await self._ended(model)
        self._metrics.model_unloads.labels(model.name, reason).inc()

    def refuse(self, model: Model) -> None:
        """It does not fit, whoever goes; or it is not worth anybody's going, and waits for a
        request."""
        resident = model.resident
        assert resident is not None
        guard = resident.runner.guard
        assert guard is not None
        error: EdgeError
        try:
            guard.fit(self._memory.room(model, self._roster.evictable()), squeeze=True)
        except OutOfMemory as refusal:
            error = refusal
        else:
            logger.warning("%s does not fit beside the others; it is loaded on demand", model.name)
            model.start_since = None
            self.close(model)
            return
        self.close(model)
        self.fail(model, error)

    def fail(self, model: Model, error: EdgeError) -> None:
        self._metrics.model_loads.labels(model.name, "failed").inc()
        logger.error("%s: not loaded: %s", model.name, error.message)
        now = time.monotonic()
        if model.pinned and model.start_since is None:
            model.start_since = now
        model.failed(error, now)

    def close(self, model: Model) -> None:
        """Let go of a file whose model was not loaded."""
        resident, model.resident = model.resident, None
        if resident is not None:
            resident.held.close()

    async def _ended(self, model: Model) -> None:
        """Its process has ended, so that its memory is there again."""
        resident = model.resident
        assert resident is not None
        await end(resident)
        model.resident, model.draining = None, False

    def retire(self, resident: Resident) -> None:
        """Begin to end one that no request has any more."""
        task = asyncio.create_task(self.finish(resident), name=f"unloading {resident.runner.name}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def finish(self, resident: Resident) -> None:
        """End one of the retired."""
        await end(resident)
        self._roster.retired.discard(resident)
        self._wake()

    async def settle(self) -> None:
        """Wait for all that were retired to end."""
        await asyncio.gather(*self._ending, return_exceptions=True)


async def end(resident: Resident) -> None:
    """Stop its worker and wait for the end of the process; then the file may go."""
    if resident.task is not None:
        await resident.runner.stop()
        await asyncio.gather(resident.task, return_exceptions=True)
    resident.held.close()
