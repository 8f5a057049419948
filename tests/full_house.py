"""Real workers: guarded, ready, and with all slots full, for what one takes then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from daemon_process import PATIENCE

from edge.host import cpu, memory
from edge.metrics import Metrics
from edge.modelstore.gguf import read_header
from edge.modelstore.shape import shape_of
from edge.runtime.guard import MemoryGuard, MemoryRecord, Room
from edge.runtime.runner import ModelRunner
from edge.types import (
    EngineSettings,
    Event,
    Failed,
    Finished,
    Generation,
    Sampling,
    TokenPrompt,
)

ANSWER = 8


def guarded(path: Path, settings: EngineSettings, available: int | None = None) -> ModelRunner:
    """A runner, not yet running. available: what the guard is told; else what is there."""
    amx = "amx_int8" in (cpu.features() or ())
    shape, draft = shape_of(read_header(path), amx), None
    if settings.draft_path:
        draft = shape_of(read_header(Path(settings.draft_path)), amx)
    guard = MemoryGuard(
        "m",
        shape,
        lambda _: settings,
        lambda: Room(memory.available_bytes() if available is None else available),
        asyncio.Lock(),
        draft,
    )
    return ModelRunner("m", path, settings, Metrics(), guard)


@asynccontextmanager
async def ready(runner: ModelRunner) -> AsyncIterator[ModelRunner]:
    """The runner once its worker has loaded; stopped in the end."""
    task = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(runner.loaded.wait(), PATIENCE)
        yield runner
    finally:
        await runner.stop()
        await task


async def fill(runner: ModelRunner) -> MemoryRecord:
    """Ask of each slot as much as it holds, all at once; returns the books of the memory."""
    assert runner.facts is not None
    assert runner.memory is not None
    heard: asyncio.Queue[Event] = asyncio.Queue()
    greedy, slots = Sampling(temperature=0), runner.facts.slots
    for slot in range(slots):
        tokens = [3 + (slot + 7 * at) % 200 for at in range(runner.facts.context - ANSWER)]
        prompt = TokenPrompt(tokens)
        asked = Generation(str(slot), prompt, greedy, max_tokens=ANSWER, ignore_eos=True)
        runner.submit(asked, heard.put_nowait)
    ended = 0
    while ended < slots:
        event = await heard.get()
        assert not isinstance(event, Failed), event
        ended += isinstance(event, Finished)
    return runner.memory
