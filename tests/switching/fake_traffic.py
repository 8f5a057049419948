"""Runners that answer as they are told, and who sends them requests, without a process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from edge.errors import EdgeError, OutOfMemory, WorkerCrashed
from edge.modelstore.store import Installed
from edge.types import (
    Alternative,
    Delta,
    Event,
    Failed,
    Finished,
    Generation,
    TokenLogprob,
    Usage,
)


class FakeRunner:
    """nats: per byte of plain text. text: its answers, a token each word. rate: tokens per second.

    error: it does not load. slow: it never is loaded. dies: while it is asked.
    """

    def __init__(
        self,
        path: Path,
        *,
        nats: float = 0.5,
        text: str = "a b c d e f g h i j k l m n o p",
        rate: float = 50.0,
        error: EdgeError | None = None,
        slow: bool = False,
        dies: bool = False,
    ) -> None:
        self.path = path
        self.state = "failed" if error else "ready"
        self.error = error
        self.restarts = 0
        self.live = 0
        self.facts = self.stats = None
        self.loaded = asyncio.Event()
        if not slow:
            self.loaded.set()
        self.nats, self.text, self.rate, self.dies = nats, text, rate, dies
        self.ended = False

    def submit(self, generation: Generation, sink: Callable[[Event], None]) -> None:
        if self.dies:
            sink(Failed(generation.id, WorkerCrashed.code, "the worker died twice"))
            return
        if generation.grammar is not None and generation.grammar.kind == "lark":
            text = json.loads(generation.grammar.text.partition(": ")[2])
            chosen = Alternative(1, text.encode(), -self.nats * len(text.encode()))
            sink(Delta(generation.id, [1], text, [TokenLogprob(chosen, [])]))
        else:
            words = self.text.split()
            tokens = [sum(word.encode()) for word in words]
            sink(Delta(generation.id, tokens, self.text))
        limit = (generation.max_tokens or 1) - 1
        sink(Finished(generation.id, "stop", Usage(1, 0, limit + 1, 0.0, limit / self.rate)))

    def cancel(self, generation_id: str) -> None:
        """Nothing is ever open."""


class FakeTraffic:
    """A `Traffic`. make: the runner for a file. beside: whether both fit.

    told: what was done, in order.
    """

    def __init__(self, current: FakeRunner, make: Callable[[Path], FakeRunner]) -> None:
        self.current = current
        self.make = make
        self.beside = True
        self.held = False
        self.told: list[str] = []
        self.refuses = False
        self.begun: list[FakeRunner] = []

    def runner(self, name: str) -> FakeRunner:
        return self.current

    @asynccontextmanager
    async def claim(self, name: str) -> AsyncIterator[None]:
        yield

    async def fits(self, model: Installed, beside: FakeRunner) -> bool:
        return self.beside

    async def begin(self, model: Installed) -> FakeRunner:
        self.told.append(f"begin {model.version}")
        runner = self.make(model.path)
        if self.refuses:
            self.refuses = False
            runner.state, runner.error = "failed", OutOfMemory("too large")
        self.begun.append(runner)
        return runner

    def move(self, name: str, runner: FakeRunner) -> None:
        assert not runner.ended
        self.told.append("move")
        self.current = runner

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        self.told.append("hold")
        self.held = True
        try:
            yield
        finally:
            self.held = False
            self.told.append("release")

    async def drained(self, runner: FakeRunner) -> None:
        self.told.append("drained")
        if runner.live:
            await asyncio.Event().wait()

    def retire(self, runner: FakeRunner) -> None:
        self.told.append("retire")
        runner.ended = True

    async def drop(self, runner: FakeRunner) -> None:
        self.told.append("drop")
        runner.ended = True

    async def renew(self, path: Path) -> None:
        self.told.append("renew")
