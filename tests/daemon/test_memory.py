"""The memory guard with real workers: predictions, and loads that die for memory."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from daemon_process import PATIENCE, poll
from full_house import fill, guarded
from full_size import Family, Kind, write

from edge.runtime.runner import ModelRunner
from edge.types import EngineSettings

AUTO = EngineSettings("cpu", 1, None, 0, 512, "f16", 512, 400_000_000)


@asynccontextmanager
async def begun(runner: ModelRunner) -> AsyncIterator[ModelRunner]:
    """Its worker has a process id and has just begun to load."""
    task = asyncio.create_task(runner.run())
    try:
        begun = lambda: runner.pid is not None or runner.loaded.is_set()  # noqa: E731
        await asyncio.to_thread(poll, begun, "the worker's process")
        yield runner
    finally:
        await runner.stop()
        await task


async def loaded(runner: ModelRunner) -> None:
    await asyncio.wait_for(runner.loaded.wait(), PATIENCE)


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma", "gemma2", "gemma3", "qwen2"])
async def test_families_take_what_was_predicted(architecture: str, tmp_path: Path) -> None:
    """Small ones with real proportions, all slots full to the last token: within 15 %."""
    family = Family(architecture, 4, 512, 8, 2, 64, 2048, 32000, 512)
    if architecture.startswith("gemma"):
        family = family._replace(tied=True)
    path = write(tmp_path / "m.gguf", family, Kind.F16)
    await assert_predicted(path, EngineSettings("cpu", 1, None, 2, 512, "f16", 256, 0))


async def test_the_default_model_takes_what_was_predicted(default_model_path: Path) -> None:
    """The same, with its own vocabulary and weights."""
    settings = EngineSettings("cpu", 1, None, 4, 256, "q8_0", 512, 0)
    await assert_predicted(default_model_path, settings)


async def test_a_model_that_drafts_is_predicted_too(
    default_model_path: Path, coarse_model_path: Path
) -> None:
    """Its weights and a cache of its own, in the same worker."""
    settings = EngineSettings("cpu", 1, None, 4, 256, "f16", 512, 0)
    draft = msgspec.structs.replace(
        settings, draft_model="coarse", draft_path=str(coarse_model_path)
    )
    await assert_predicted(default_model_path, draft)


async def assert_predicted(path: Path, settings: EngineSettings) -> None:
    async with begun(guarded(path, settings)) as runner:
        await loaded(runner)
        record = await fill(runner)
        assert 0.85 <= record.ratio <= 1.15, record


async def test_a_model_that_does_not_fit_never_has_a_worker(default_model_path: Path) -> None:
    """It is refused with the arithmetic."""
    runner = guarded(default_model_path, AUTO, available=100_000_000)
    async with begun(runner):
        await loaded(runner)
        assert (runner.state, runner.pid) == ("failed", None)
        assert runner.error is not None
        assert "weights 98 MB" in runner.error.message


async def test_a_refused_allocation_is_tried_smaller(
    default_model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp gets no memory for the cache: the next worker asks for half, and says so."""
    caplog.set_level(logging.INFO)
    async with begun(guarded(default_model_path, AUTO)) as runner:
        pid = runner.pid
        assert pid is not None
        resource.prlimit(pid, resource.RLIMIT_AS, (700_000_000, 700_000_000))
        await loaded(runner)
        assert runner.state == "ready", runner.error
        assert runner.pid != pid
        assert runner.facts is not None
        assert runner.memory is not None
        assert runner.facts.slots == 16
        assert runner.memory.note is not None
        assert runner.memory.note.endswith("a load died for memory")
    assert "once more with less than" in caplog.text


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGABRT])
async def test_a_load_that_is_killed_is_tried_smaller_once(
    default_model_path: Path, end: signal.Signals
) -> None:
    """By the kernel when memory runs out, or by ggml itself; the second time it is a failure."""
    async with begun(guarded(default_model_path, AUTO)) as runner:
        killed = runner.pid
        assert killed is not None
        os.kill(killed, end)
        await asyncio.to_thread(poll, lambda: runner.pid not in (None, killed), "a second worker")
        assert not runner.loaded.is_set()
        assert runner.memory is not None
        assert runner.memory.plan == "context 512 with 16 slots in f16"
        assert runner.pid is not None
        os.kill(runner.pid, end)
        await loaded(runner)
        assert runner.state == "failed"


async def test_models_load_one_after_the_other(default_model_path: Path) -> None:
    """What the first was promised is taken before the second is measured against what is left,
    and one that waits can be stopped."""
    first, second = (guarded(default_model_path, AUTO) for _ in range(2))
    assert first.guard is not None
    assert second.guard is not None
    second.guard.loading = first.guard.loading
    async with begun(first):
        waits = asyncio.create_task(second.run())
        await asyncio.sleep(0)
        assert second.pid is None
        await second.stop()
        await asyncio.wait_for(waits, PATIENCE)
        assert second.pid is None
        await loaded(first)
        assert not first.guard.loading.locked()
