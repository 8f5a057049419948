"""Workers that are refused memory which was thought to be there, as it is on boards: in a load and
in the middle of an answer, with the words that boards wrote."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from daemon_process import PATIENCE
from full_house import guarded, ready

from edge.errors import OutOfMemory, WorkerCrashed
from edge.runtime.runner import MOST_SHORTAGES, ModelRunner
from edge.types import (
    Delta,
    EngineSettings,
    Event,
    Failed,
    Finished,
    Generation,
    Sampling,
    TextPrompt,
)

REFUSALS = Path(__file__).parents[1] / "refusals"

AUTO = EngineSettings("cpu", 1, None, 0, 256, "f16", 512, 50_000_000, draft="none")
"""8 slots of 256 tokens for the default model."""

SET = EngineSettings("cpu", 1, None, 2, 256, "f16", 512, 0, draft="none")


def refuse(monkeypatch: pytest.MonkeyPatch, words: str, at: str, above: int) -> None:
    """Workers that are started from now on: see tests/refusals/sitecustomize.py."""
    monkeypatch.setenv("PYTHONPATH", f"{REFUSALS}:{Path(__file__).parents[2]}")
    monkeypatch.setenv("REFUSED_WORDS", str(REFUSALS / f"{words}.txt"))
    monkeypatch.setenv("REFUSED_AT", at)
    monkeypatch.setenv("REFUSED_ABOVE", str(above))


@asynccontextmanager
async def running(path: Path, settings: EngineSettings) -> AsyncIterator[ModelRunner]:
    runner = guarded(path, settings)
    async with ready(runner):
        yield runner


async def answer(runner: ModelRunner) -> list[Event]:
    """All events of one answer."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    greedy = Sampling(temperature=0)
    asked = Generation("g", TextPrompt("The sea is"), greedy, 12, ignore_eos=True)
    runner.submit(asked, heard.put_nowait)
    events = [await asyncio.wait_for(heard.get(), PATIENCE)]
    while not isinstance(events[-1], (Finished, Failed)):
        events.append(await asyncio.wait_for(heard.get(), PATIENCE))
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def counted(runner: ModelRunner) -> float:
    found = runner.metrics.registry.get_sample_value("edge_worker_shortages_total", {"model": "m"})
    assert found is not None
    return found


async def test_in_the_middle_of_an_answer(
    default_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The process is gone; the next one has half of the KV cache, and the answer goes on as if
    nothing had been. It is said in the log, in the books and in the metrics."""
    async with running(default_model_path, AUTO) as whole:
        expected = text_of(await answer(whole))
    refuse(monkeypatch, "orin-nano-decode", at="5", above=6 * 256)
    async with running(default_model_path, AUTO) as runner:
        assert runner.facts is not None
        assert runner.facts.slots == 8
        events = await answer(runner)
        assert isinstance(events[-1], Finished), events[-1]
        assert text_of(events) == expected
        assert runner.restarts == 1
        assert runner.facts.slots == 4
        assert runner.memory is not None
        assert runner.memory.note is not None
        assert runner.memory.note.endswith("its worker died for it")
        assert counted(runner) == 1
    assert "m: out of memory (killed by SIGABRT: CUDA error: " in caplog.text
    assert (REFUSALS / "orin-nano-decode.txt").read_text().splitlines()[0] in capfd.readouterr().err


async def test_again_and_again(default_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it has, it is too much: a request that was there at two deaths fails, the plan gets
    smaller each time, and nothing is started for ever."""
    refuse(monkeypatch, "orin-nano-decode", at="3", above=1 * 256)
    async with running(default_model_path, AUTO) as runner:
        last = (await answer(runner))[-1]
        assert isinstance(last, Failed)
        assert last.code == WorkerCrashed.code
        events = await answer(runner)
        assert isinstance(events[-1], Finished), events[-1]
        assert runner.facts is not None
        assert runner.facts.slots == 1
        assert counted(runner) == 3


async def test_settings_that_leave_nothing_to_give(
    default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once more as it was, and then is an error with the reason, and no loop."""
    refuse(monkeypatch, "orin-nano-decode", at="3", above=0)
    async with running(default_model_path, SET) as runner:
        last = (await answer(runner))[-1]
        assert isinstance(last, Failed)
        assert last.code == OutOfMemory.code
        assert runner.state == "failed"
        assert counted(runner) == MOST_SHORTAGES
        assert "NvMap" in last.message or "out of memory" in last.message


async def test_another_fault_is_not_taken_for_it(
    default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in the same way, and says something else: nothing gets smaller."""
    refuse(monkeypatch, "orin-internal-error", at="3", above=0)
    async with running(default_model_path, AUTO) as runner:
        assert isinstance((await answer(runner))[-1], Failed)
        assert runner.memory is not None
        assert (runner.memory.note, counted(runner)) == (None, 0)


async def test_in_a_load(
    default_model_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """NVIDIA's allocator writes to the error output, llama.cpp says no: smaller until it fits."""
    caplog.set_level(logging.INFO)
    refuse(monkeypatch, "orin-nano-load", at="load", above=3 * 256)
    async with running(default_model_path, AUTO) as runner:
        assert runner.state == "ready", runner.error
        assert runner.facts is not None
        assert runner.facts.slots == 2
        assert counted(runner) == 2
        assert runner.restarts == 0
    assert "loading died for memory (alloc_tensor_range: failed" in caplog.text
