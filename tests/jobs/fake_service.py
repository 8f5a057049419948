"""Where the service stands for the dispatcher: it answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from edge.chains.chains import Chains
from edge.config.tree import Config
from edge.errors import EdgeError, ModelNotFound
from edge.jobs.dispatcher import Dispatcher
from edge.jobs.kinds import Kinds
from edge.metrics import Metrics
from edge.store.database import Database
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS
from edge.tensors import Inference, Inferred
from edge.types import Delta, Finished, Pace, Part, Priority, Request, Route, Trail, Usage

Behaviour = Callable[[Request], AsyncGenerator[list[Part], None]]


class FakeOnnx:
    """ONNX models: `eye` looks at pictures, `sums` is for tensors. It says what `seen` has next."""

    name, model, route = "onnx:eye", "eye", "local"

    def __init__(self) -> None:
        self.tasks = {"eye": "detect", "sums": "tensors"}
        self.seen: list[Inferred | EdgeError] = []
        self.inferences: list[Inference] = []
        self.room = 2
        self.at_hand = True
        self.refusal: EdgeError | None = None

    def folder(self, name: str) -> SimpleNamespace:
        self.place(name)
        return SimpleNamespace(manifest=SimpleNamespace(task=self.tasks[name]))

    def place(self, name: str) -> FakeOnnx:
        if name not in self.tasks:
            raise ModelNotFound(f"no {name} but {', '.join(self.tasks)}")
        return self

    def unavailable(self) -> EdgeError | None:
        return self.refusal

    async def infer(self, inference: Inference) -> Inferred:
        self.inferences.append(inference)
        outcome = self.seen.pop(0)
        if isinstance(outcome, EdgeError):
            raise outcome
        return outcome


class FakeHeat:
    """What is held back. held: classes that do not begin."""

    def __init__(self) -> None:
        self.held: set[Priority] = set()
        self.pace = Pace()

    def holds(self, priority: Priority, *, may_wait: bool) -> str | None:
        return "too hot" if priority in self.held else None


class FakeService:
    """Where the `Service` stands, its router and its only target: it counts who runs, and answers
    by `behaviour`. onnx: what sees and computes, beside it."""

    name = "local:small"
    route: Route = "local"

    def __init__(self, slots: int, behaviour: Behaviour, config: Config) -> None:
        self.config = config
        self.router = self
        self.onnx = FakeOnnx()
        self.heat = FakeHeat()
        self.slots = slots
        self.closed: set[str] = set()
        self.behaviour = behaviour
        self.live = self.most = 0
        self.requests: list[Request] = []

    def place(self, line: str, priority: Priority = "normal") -> FakeService | None:
        if line == "gone":
            raise ModelNotFound("gone")
        return None if line in self.closed else self

    def loading(self, line: str) -> str | None:
        return None

    def obstacle(self, line: str) -> str | None:
        return None

    def reachable(self, line: str) -> bool:
        return line not in self.closed

    @property
    def room(self) -> int:
        return max(1, self.slots - 1) if self.live < self.slots else 0

    def check(self, request: Request) -> None:
        pass

    async def infer(self, inference: Inference, door: str) -> Inferred:
        return await self.onnx.infer(inference)

    async def generate(
        self, request: Request, door: str, trail: Trail
    ) -> AsyncGenerator[list[Part], None]:
        trail.model = "small"
        self.requests.append(request)
        self.live += 1
        self.most = max(self.most, self.live)
        try:
            async for parts in self.behaviour(request):
                yield parts
        finally:
            self.live -= 1


async def at_once(request: Request) -> AsyncGenerator[list[Part], None]:
    finished = Finished("", "stop", Usage(3, 0, 1, 0.1, 0.1))
    yield [Part(0, Delta("", [1], "Hello")), Part(0, finished)]


async def after_a_while(request: Request) -> AsyncGenerator[list[Part], None]:
    await asyncio.sleep(0.05)
    async for parts in at_once(request):
        yield parts


async def never(request: Request) -> AsyncGenerator[list[Part], None]:
    await asyncio.Event().wait()
    yield []


def failing(*errors: EdgeError) -> Behaviour:
    """One error for each attempt, and an answer after them."""
    left = list(errors)

    async def behaviour(request: Request) -> AsyncGenerator[list[Part], None]:
        if left:
            raise left.pop(0)
        async for parts in at_once(request):
            yield parts

    return behaviour


@asynccontextmanager
async def dispatching(
    path: Path, behaviour: Behaviour, slots: int = 4, config: Config | None = None
) -> AsyncIterator[tuple[Dispatcher, FakeService]]:
    service = FakeService(slots, behaviour, config or Config())
    async with Database(path / "jobs.sqlite", MIGRATIONS) as database:
        ledger = Jobs(database, Bounds(100, 1 << 20), result_ttl=1000)
        kinds = Kinds(service, Chains(service))  # type: ignore[arg-type]
        dispatcher = Dispatcher(ledger, kinds, Metrics(), Config().sync.max_attempts)
        task = asyncio.create_task(dispatcher.run())
        try:
            yield dispatcher, service
        finally:
            await dispatcher.stop()
            await task


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)
