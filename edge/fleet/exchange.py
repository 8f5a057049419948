"""What a switch of versions does with the fleet: a `Traffic` of `edge/switching/`.

As long as it has a name, the fleet neither loads nor unloads it. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from edge.errors import ModelNotFound, OutOfMemory
from edge.fleet.fleet import Fleet
from edge.fleet.model import Model, Resident
from edge.modelstore.store import Installed
from edge.runtime.runner import ModelRunner

LOOK_SECONDS = 0.05


class Exchange:
    """See `Traffic` for what each method is for."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def runner(self, name: str) -> ModelRunner | None:
        model = self._fleet.find(name)
        return None if model is None else model.runner

    @asynccontextmanager
    async def claim(self, name: str) -> AsyncIterator[None]:
        model = self._model(name)
        while model.moving is not None:  # noqa: ASYNC110 - it ends with the load
            await asyncio.sleep(LOOK_SECONDS)
        model.switching = True
        try:
            yield
        finally:
            model.switching = False
            self._fleet.wake()

    async def fits(self, model: Installed, beside: ModelRunner) -> bool:
        resident = await self._prepared(model)
        with resident.held:
            guard = resident.runner.guard
            if guard is None:
                return True
            try:
                fitting = guard.fit(squeeze=False)
            except OutOfMemory:
                return False
        if beside.facts is None:
            return True
        settings, record = fitting
        return record.note is None or settings.slots >= beside.facts.slots

    async def begin(self, model: Installed) -> ModelRunner:
        resident = await self._prepared(model)
        self._fleet.extra.add(resident)
        runner = resident.runner
        resident.task = asyncio.create_task(runner.run(), name=f"model {runner.name}")
        return runner

    def move(self, name: str, runner: ModelRunner) -> None:
        self._fleet.seat(name, self._resident(runner))

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        model = self._model(name)
        model.held = True
        try:
            yield
        finally:
            model.held = False
            self._fleet.wake()

    async def drained(self, runner: ModelRunner) -> None:
        resident = self._resident(runner)
        while resident.users:  # noqa: ASYNC110 - who waits is told nothing by requests
            await asyncio.sleep(LOOK_SECONDS)

    def retire(self, runner: ModelRunner) -> None:
        self._fleet.retire(self._resident(runner))

    async def drop(self, runner: ModelRunner) -> None:
        await self._fleet.drop(self._resident(runner))

    async def renew(self, path: Path) -> None:
        for model in self._fleet.models():
            while model.moving is not None:  # noqa: ASYNC110 - it ends with the load
                await asyncio.sleep(LOOK_SECONDS)
            runner = model.runner
            if runner is not None and runner.path == path:
                self._fleet.vacate(model.name)

    async def _prepared(self, model: Installed) -> Resident:
        assert model.version is not None
        return await asyncio.to_thread(self._fleet.prepare, model.name, model.version)

    def _model(self, name: str) -> Model:
        model = self._fleet.find(name)
        if model is None:
            raise ModelNotFound(f"the model `{name}` is not installed", param="name")
        return model

    def _resident(self, runner: ModelRunner) -> Resident:
        return next(one for one in self._fleet.residents() if one.runner is runner)
