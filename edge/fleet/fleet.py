"""The owner of all that is loaded: which models have a worker, since when, and who waits for one.

    use(name) ─► at hand? ─► the runner          a request holds it until it ends
                    └──────► a waiter ─► turn ─► open ─► make way ─► load ─► the runner

`turn` asks the plan for the next step and begins it; one model is opened, loaded or unloaded at a
time, so that what the guard was told is still true when the worker starts. Owned by the event
loop. What a request was given is never unloaded before the request has ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
)
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edge.errors import (
    EdgeError,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    Overloaded,
)
from edge.fleet.memory import Claim, Memory
from edge.fleet.model import Model, Resident, Waiter
from edge.fleet.mover import Mover, end
from edge.fleet.plan import next_step
from edge.fleet.roster import Roster
from edge.fleet.rules import Rules, Source
from edge.loops import Loop
from edge.metrics import Metrics
from edge.runtime.guard import Room
from edge.runtime.runner import ModelRunner
from edge.types import Adapter, Pace

logger = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks when nothing happens."""

LOADING_RETRY = 5.0
"""Seconds after which to ask again for a model that is not loaded yet."""


class RunnerDied(Exception):
    """A runner's task has failed: a bug, after which the daemon has to start anew."""


class Fleet:
    """`run` it in a task; `use` a model at any time.

    available: the memory that can be had now, in bytes, None where unknown.
    """

    def __init__(
        self, source: Source, rules: Rules, metrics: Metrics, available: Callable[[], int | None]
    ) -> None:
        self.rules = rules
        self._source = source
        self._roster = Roster(rules.pinned)
        self._memory = Memory(self._roster, available, rules.cap)
        self._mover = Mover(source, self._roster, self._memory, metrics, self.wake)
        self._others_leave: Callable[[], bool] = lambda: False
        self._change: asyncio.Task[None] | None = None
        self._loop = Loop("models", self._turn, tick=TICK, fatal=(RunnerDied,))
        self._stopped = False
        self.started = asyncio.Event()
        """Each model that loads at the start has been loaded, or has failed to."""

        now = time.monotonic()
        for name in rules.at_start:
            self._roster[name].start_since = now

    # What there is

    def find(self, name: str) -> Model | None:
        """What is known of a name; None for one that no request may ask for."""
        model = self._roster.known(name)
        if model is not None and (model.resident is not None or model.moving):
            return model
        return self._roster[name] if self._source.path(name) is not None else None

    def path(self, name: str) -> Path | None:
        """The file that answers for a name, or would."""
        model = self._roster.known(name)
        runner = model.runner if model is not None else None
        return self._source.path(name) if runner is None else runner.path

    def adapter(self, name: str) -> Adapter | None:
        """The adapter that a name's model is loaded with, or would be."""
        model = self._roster.known(name)
        runner = model.runner if model is not None else None
        return self._source.adapter(name) if runner is None else runner.adapter

    def names(self) -> list[str]:
        """All that may be asked for, those that load at the start first."""
        loaded = [model.name for model in self._roster if model.resident is not None]
        installed = self._source.names()
        first = [name for name in self.rules.at_start if self._source.path(name) is not None]
        return list(dict.fromkeys([*first, *loaded, *installed]))

    def models(self) -> list[Model]:
        """The same with what is known of each."""
        return [self._roster[name] for name in self.names()]

    @property
    def runners(self) -> list[ModelRunner]:
        """Of all that are in memory or on their way there."""
        return [model.runner for model in self._roster if model.runner is not None]

    @property
    def loaded(self) -> list[str]:
        """The names of those that can take requests."""
        return [model.name for model in self._roster if model.loaded]

    @property
    def ready(self) -> bool:
        """True when all that is to be there can answer now. What loads on demand is not missed."""
        expected = {*self.rules.at_start, *self.rules.pinned}
        return all(model.well for model in self._roster if model.name in expected)

    # Others on the same machine

    def share(self, beside: Callable[[], Claim], leave: Callable[[], bool]) -> Callable[[], Room]:
        """Leave alone what they were promised; returns what tells them how much there is.

        leave: asks them to give up what is idle before a model is refused; True while they do.
        """
        self._memory.beside, self._others_leave = beside, leave
        return partial(self._memory.room, None)

    # What requests do

    @asynccontextmanager
    async def use(
        self, name: str, patience: float | None, *, urgent: bool = False
    ) -> AsyncIterator[ModelRunner]:
        """The runner of a model, which stays as long as the block lasts; loaded if it has to be.

        patience: seconds to wait for it at most. urgent: it has no patience with others' turns.
        Raises `ModelNotFound`, `ModelLoadFailed`, and `ModelLoading` when patience is over.
        """
        resident = await self._granted(name, patience, urgent)
        try:
            yield resident.runner
        finally:
            self._release(resident)

    def fetch(self, name: str) -> None:
        """Have it loaded when that costs nobody anything: the next request would be glad of it."""
        model = self.find(name)
        if model is not None and not model.loaded:
            model.fetch_since = time.monotonic()
            self._loop.wake()

    def refusal(self, name: str) -> EdgeError | None:
        """Why a request for it would not even wait; None if it would be answered, or wait."""
        model = self.find(name)
        if model is None:
            return ModelNotFound(f"the model `{name}` is not installed", param="model")
        runner, now = model.runner, time.monotonic()
        if runner is not None and runner.state == "failed":
            reason = f": {runner.error.message}" if runner.error else ""
            return ModelLoading(f"{name} is not loaded{reason}", retry_after=LOADING_RETRY)
        if refusal := model.refusal(now):
            return refusal
        if model.start_since is not None and not model.loaded:
            return ModelLoading(f"{name} is not loaded yet", retry_after=LOADING_RETRY)
        return None

    # What a switch of versions does

    @property
    def extra(self) -> set[Resident]:
        """Loaded, and of no name: versions that are tried out, or kept for a while."""
        return self._roster.extra

    def residents(self) -> list[Resident]:
        """All that are in memory, on their way there, or about to end."""
        return self._roster.residents()

    def prepare(self, name: str, version: int) -> Resident:
        """That version of a name, checked and not loaded. It counts once it is in `extra`.

        Waits for the disk: not for an event loop. Raises like `Source.prepare`.
        """
        return self._mover.prepare(name, version)

    def seat(self, name: str, resident: Resident) -> None:
        """Have the name mean one of `extra`, which whoever had it joins.

        New requests get the new runner; those that have the old one end on it.
        """
        model = self._roster[name]
        assert model.moving is None, f"{name} is {model.moving}"
        self.extra.remove(resident)
        if model.runner is None:
            self._mover.close(model)
        elif model.resident is not None:
            self.extra.add(model.resident)
        resident.runner.name = name
        resident.ready_at = resident.used_at = time.monotonic()
        model.error = model.start_since = model.fetch_since = None
        model.resident, model.draining = resident, False
        self._loop.wake()

    def retire(self, resident: Resident) -> None:
        """Have one of `extra` end with the last request that has it."""
        self.extra.remove(resident)
        self._roster.retired.add(resident)
        if not resident.users:
            self._mover.retire(resident)

    async def drop(self, resident: Resident) -> None:
        """End one of `extra`, or who has a name, now; its requests fail."""
        self.extra.discard(resident)
        for model in self._roster:
            if model.resident is resident:
                model.resident = None
        self._roster.retired.add(resident)
        await self._mover.finish(resident)

    def vacate(self, name: str) -> None:
        """Have a loaded model leave, and be loaded anew for whoever comes: its name means another
        file now. Requests that have it end on it."""
        model = self._roster[name]
        resident, model.resident, model.draining = model.resident, None, False
        assert resident is not None
        self._roster.retired.add(resident)
        if not resident.users:
            self._mover.retire(resident)
        if model.pinned or name in self.rules.at_start:
            model.start_since = time.monotonic()
        self._loop.wake()

    def keep_pace(self, pace: Pace) -> None:
        """Have all workers that there are work as hard as that."""
        for resident in self.residents():
            resident.runner.keep_pace(pace)

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._loop.wake()

    # The loop

    async def run(self) -> None:
        """Load and unload until `stop`. Raises `RunnerDied`."""
        self._loop.wake()
        await self._loop.run()

    async def stop(self) -> None:
        """End all workers; what waits or runs fails."""
        self._stopped = self._mover.stopping = True
        self._loop.stop()
        stopping = Overloaded("the appliance is shutting down", retry_after=LOADING_RETRY)
        residents = [*self._roster.retired, *self.extra]
        for model in self._roster:
            model.start_since = None
            self._dismiss(model, stopping)
            if model.resident is not None:
                residents.append(model.resident)
        await asyncio.gather(*(end(resident) for resident in residents))
        if self._change is not None:
            await asyncio.gather(self._change, return_exceptions=True)
        await self._mover.settle()
        for model in self._roster:
            self._mover.close(model)

    async def _turn(self) -> None:
        """Begin what is next, and give out what is there."""
        now = time.monotonic()
        self._look_after_runners()
        if self._change is not None and self._change.done():
            change, self._change = self._change, None
            change.result()
        self._loop.tick = TICK
        self._give_out()  # before the next step: what was just loaded is not idle
        if self._change is None and not self._stopped:
            self._begin(now)
            self._give_out()
        if not self.started.is_set():
            waited_for = [self._roster[name] for name in self.rules.at_start]
            if all(m.loaded or m.error or m.start_since is None for m in waited_for):
                self.started.set()

    def _begin(self, now: float) -> None:
        """The next step, if there is one."""
        for model in self._roster:
            if model.resident is not None and model.runner is None:
                if model.wanted_since(now) is None:  # whoever wanted it has gone
                    self._mover.close(model)
            elif model.resident is None and model.wanted_since(now) is not None:
                self._start(self._mover.open(model), model, "loading")
                return
        step = next_step(self._roster, now, self._memory.fits, self.rules.turn)
        for model in self._roster:
            model.draining = model in step.drain
        if step.again is not None:
            self._loop.tick = max(0.001, min(TICK, step.again - now))
        if step.refuse is not None:
            # What is on its way out, or may be soon, may be all that is in the way.
            if self._roster.settled and not self._others_leave():
                self._mover.refuse(step.refuse)
                self._loop.wake()
        elif step.load is not None:
            self._start(self._mover.load(step.load, step.squeeze), step.load, "loading")
        elif step.unload is not None:
            self._start(self._mover.unload(step.unload, "room"), step.unload, "unloading")
        elif self.rules.ttl is not None and (late := self._outlived(now, self.rules.ttl)):
            self._start(self._mover.unload(late, "ttl"), late, "unloading")

    def _start(
        self,
        work: Coroutine[Any, Any, None],
        model: Model,
        moving: Literal["loading", "unloading"],
    ) -> None:
        async def change() -> None:
            try:
                await work
            finally:
                model.moving = None
                self._loop.wake()

        model.moving = moving
        self._change = asyncio.create_task(change(), name=f"{moving} {model.name}")

    def _look_after_runners(self) -> None:
        """Notice those that came to an end by themselves."""
        for model in self._roster:
            resident = model.resident
            if resident is None or resident.task is None or model.moving is not None:
                continue
            if resident.task.done() and not self._stopped:
                raise RunnerDied(f"the runner of {model.name} ended") from (
                    None if resident.task.cancelled() else resident.task.exception()
                )
            if resident.runner.state == "failed" and not model.switching:
                # It was loaded once, and its next worker could not be: begin from the start.
                error = resident.runner.error or ModelLoadFailed("its worker is lost")
                model.resident = None
                self._roster.retired.add(resident)
                self._mover.retire(resident)
                self._mover.fail(model, error)

    def _outlived(self, now: float, ttl: float) -> Model | None:
        """One that nobody has used for so long."""
        for model in self._roster:
            resident = model.resident
            if resident is None or not model.removable or resident.users:
                continue
            if now >= resident.used_at + ttl:
                return model
        return None

    # Requests

    async def _granted(self, name: str, patience: float | None, urgent: bool) -> Resident:
        model = self.find(name)
        if model is None:
            raise ModelNotFound(f"the model `{name}` is not installed", param="model")
        if self._stopped:
            raise Overloaded("the appliance is shutting down", retry_after=LOADING_RETRY)
        if model.at_hand and not model.waiters and model.resident is not None:
            return self._given(model.resident)
        if refusal := model.refusal(time.monotonic()):
            raise refusal
        waiter = Waiter(time.monotonic(), urgent)
        model.waiters.append(waiter)
        self._loop.wake()
        try:
            await asyncio.wait({waiter.granted}, timeout=patience)
            if waiter.granted.done():
                return waiter.granted.result()
            raise ModelLoading(
                f"{name} was not loaded within {patience or 0:g} s: it is {model.state}",
                hint="come back later, or raise models.memory_mb or limits.max_wait_seconds",
                retry_after=LOADING_RETRY,
            )
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.exception():
                self._release(waiter.granted.result())
            raise
        finally:
            with suppress(ValueError):
                model.waiters.remove(waiter)
            self._loop.wake()

    def _give_out(self) -> None:
        """To all who wait for what is at hand, in their order."""
        for model in self._roster:
            while model.waiters and model.at_hand and model.resident is not None:
                waiter = model.waiters.popleft()
                if not waiter.granted.done():
                    waiter.granted.set_result(self._given(model.resident))

    def _given(self, resident: Resident) -> Resident:
        resident.users += 1
        return resident

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        resident.used_at = time.monotonic()
        if resident.users:
            return
        if resident in self._roster.retired:
            self._mover.retire(resident)
        self._loop.wake()

    def _dismiss(self, model: Model, error: EdgeError) -> None:
        while model.waiters:
            waiter = model.waiters.popleft()
            if not waiter.granted.done():
                waiter.granted.set_exception(error)
