"""A machine whose memory is counted, with models that load when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from edge.errors import EdgeError, ModelNotFound, OutOfMemory, WorkerCrashed
from edge.fleet.fleet import Fleet
from edge.fleet.rules import Rules
from edge.metrics import Metrics
from edge.runtime.guard import MemoryRecord, Room
from edge.types import EngineSettings, EngineStats

PATIENCE = 20.0
SETTINGS = EngineSettings("cpu", 1, None, 1, 1, "f16", 1, 0)

Fit = tuple[EngineSettings, MemoryRecord]


class PlayGuard:
    """Knows how much its model needs. least: what would do with less context."""

    def __init__(self, size: int, least: int, room: Callable[[], Room]) -> None:
        self.size, self.least, self.room = size, least, room
        self.squeeze = True

    def fit(self, room: Room | None = None, *, squeeze: bool | None = None) -> Fit:
        room = self.room() if room is None else room
        usable, available = room.usable, room.available
        may_squeeze = self.squeeze if squeeze is None else squeeze
        assert usable is not None
        if usable >= self.size:
            return SETTINGS, MemoryRecord("", 0, 0, 0, 0, self.size, available, 0)
        if may_squeeze and usable >= self.least:
            return SETTINGS, MemoryRecord("", 0, 0, 0, 0, usable, available, 0)
        raise OutOfMemory(f"needs {self.size} of {usable}")


class PlayRunner:
    """Stands where a `ModelRunner` stands. It is ready when `gate` opens; failures come first."""

    facts = pid = None
    restarts = waiting = live = 0
    short = False

    def __init__(self, machine: Machine, name: str, guard: PlayGuard) -> None:
        self.machine, self.name, self.guard = machine, name, guard
        self.place = name if name not in machine.taken else f"{name} anew"
        self.path = machine.path(name)
        self.state: str = "loading"
        self.error: EdgeError | None = None
        self.loaded, self.stopping = asyncio.Event(), asyncio.Event()
        self.memory: MemoryRecord | None = None

    @property
    def stats(self) -> EngineStats | None:
        if self.state != "ready" or self.memory is None:
            return None
        taken = self.memory.predicted_bytes
        return EngineStats(0, 1, 1, 0, 0, 0, 0, 1, taken, taken_bytes=taken)

    async def run(self) -> None:
        machine = self.machine
        machine.log.append(("load", self.name))
        _, self.memory = self.guard.fit()
        machine.take(self.place, self.memory.predicted_bytes)
        await asyncio.wait(
            {
                asyncio.ensure_future(machine.gate.wait()),
                asyncio.ensure_future(self.stopping.wait()),
            },
            return_when=asyncio.FIRST_COMPLETED,
        )
        if failures := machine.failures.get(self.name):
            self.error, self.state = failures.pop(0), "failed"
            self.short = isinstance(self.error, OutOfMemory)
            machine.give_back(self.place)
        elif not self.stopping.is_set():
            self.state = "ready"
        self.loaded.set()
        await self.stopping.wait()
        await asyncio.sleep(0)
        machine.give_back(self.place)
        machine.log.append(("unload", self.name))
        self.state = "stopped"

    async def stop(self) -> None:
        self.stopping.set()

    def die(self) -> None:
        """Its worker died, and there is no memory for another one."""
        self.state, self.error = "failed", WorkerCrashed("gone")
        self.machine.give_back(self.place)


class Machine:
    """`sizes`: of the installed models. What they take together may never be more than `total`.
    `files`: of those that are not in one of their own."""

    def __init__(self, total: int, **sizes: int) -> None:
        self.total, self.sizes = total, sizes
        self.least: dict[str, int] = {}
        self.files: dict[str, Path] = {}
        self.taken: dict[str, int] = {}
        self.failures: dict[str, list[EdgeError]] = {}
        self.log: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.runners: list[Any] = []

    def take(self, name: str, size: int) -> None:
        assert name not in self.taken, f"{name} is loaded twice"
        self.taken[name] = size
        assert sum(self.taken.values()) <= self.total, self.taken

    def give_back(self, name: str) -> None:
        self.taken.pop(name, None)

    def available(self) -> int:
        """What the kernel would say; a sixteenth of it is left to others."""
        return self.total - sum(self.taken.values())

    def loads(self) -> list[str]:
        return [name for what, name in self.log if what == "load"]

    # A `Source`

    def names(self) -> list[str]:
        return list(self.sizes)

    def path(self, name: str) -> Path | None:
        return self.files.get(name, Path(f"/{name}")) if name in self.sizes else None

    def adapter(self, name: str) -> None:
        return None

    def prepare(self, name: str, room: Callable[[], Room], loading: asyncio.Lock) -> Any:
        if name not in self.sizes:
            raise ModelNotFound(name)
        guard = PlayGuard(self.sizes[name], self.least.get(name, self.sizes[name]), room)
        self.runners.append(PlayRunner(self, name, guard))
        return self.runners[-1], ExitStack()


@asynccontextmanager
async def running(machine: Machine, *, capped: bool = True, **rules: Any) -> AsyncIterator[Fleet]:
    """capped: the models may have `total` by the rules, else by what is available."""
    rules["pinned"] = frozenset(rules.get("pinned", ()))
    if capped:
        rules["cap"] = machine.total
    available = (lambda: None) if capped else machine.available
    fleet = Fleet(machine, Rules(**rules), Metrics(), available)
    task = asyncio.create_task(fleet.run())
    try:
        yield fleet
    finally:
        await fleet.stop()
        await task
    assert machine.taken == {}


class Request:
    """A request that runs until the test ends it. `got` when it has its runner."""

    def __init__(self, fleet: Fleet, name: str, patience: float = PATIENCE, **how: Any) -> None:
        self.name, self.end, self.got = name, asyncio.Event(), asyncio.Event()
        self.runner: Any = None
        self.task = asyncio.create_task(self._run(fleet, patience, how))

    async def _run(self, fleet: Fleet, patience: float, how: dict[str, Any]) -> None:
        async with fleet.use(self.name, patience, **how) as runner:
            self.runner = runner
            self.got.set()
            await self.end.wait()
            assert not self.runner.stopping.is_set(), "stopped under a running request"

    async def begun(self) -> Request:
        """Raises what it was refused with."""
        got = asyncio.create_task(self.got.wait())
        done, _ = await asyncio.wait(
            {got, self.task}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        assert done, f"{self.name} was never given"
        if self.task in done and not self.got.is_set():
            got.cancel()
            self.task.result()
        return self

    async def ended(self) -> None:
        self.end.set()
        await asyncio.wait_for(self.task, PATIENCE)


async def until(condition: Callable[[], object]) -> None:
    async def look() -> None:
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), PATIENCE)
