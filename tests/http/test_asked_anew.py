"""A kept request that a busy worker did not begin in time is asked again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serving import HandFleet, HandRunner, Sink

from edge.config.doors import Limits
from edge.config.machine import Heat, Power
from edge.errors import Overloaded
from edge.heat.governor import Governor
from edge.host.sensors import Sensors
from edge.local import LocalModel
from edge.metrics import Metrics
from edge.runtime.requests import LiveRequests
from edge.types import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    Generation,
    Message,
    Request,
    Sampling,
    Started,
    Usage,
)


class BusyRunner(HandRunner):
    """Its worker hears of nothing before the test says what it says."""

    def __init__(self) -> None:
        super().__init__(slots=1, piece="", endless=True)
        self.submitted: asyncio.Queue[str] = asyncio.Queue()
        self._requests = LiveRequests()

    def submit(self, generation: Generation, sink: Sink, *, resumable: bool = True) -> None:
        self._requests.add(generation, sink, resumable=resumable)
        self.submitted.put_nowait(generation.id)

    def cancel(self, generation_id: str) -> None:
        self._requests.remove(generation_id)

    def says(self, *events: Event) -> None:
        for event in events:
            self._requests.hear(event)


async def answer(model: LocalModel, request: Request) -> str:
    events = [part.event async for parts in model.stream(request, 0.0) for part in parts]
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_what_is_said_of_the_first_attempt_is_not_the_seconds(tmp_path: Path) -> None:
    """The worker had begun when it was cancelled, and tells its first token before it knows."""
    runner = BusyRunner()
    metrics, limits = Metrics(), Limits(max_wait_seconds=0.001)
    fleet = HandFleet(runner)
    heat = Governor(Heat(), Power(), Sensors(tmp_path), metrics, fleet.keep_pace)
    model = LocalModel(runner.name, fleet, limits, metrics, heat)
    prompt = ChatPrompt([Message("user", "Say hello.")])
    request = Request("job", [prompt], Sampling(), max_tokens=2, kept=True)
    with pytest.raises(Overloaded):
        await answer(model, request)
    first = await runner.submitted.get()
    model.limits = Limits()
    again = asyncio.create_task(answer(model, request))
    second = await runner.submitted.get()
    runner.says(Started(first, 0), Delta(first, [1], "Hello"))
    runner.says(Started(second, 1), Delta(second, [1], "Hello"), Delta(second, [2], "!"))
    runner.says(Finished(second, "length", Usage(1, 0, 2, 0.1, 0.1)))
    assert await again == "Hello!"
