"""A `ModelRunner` with a real worker, in this process: what a daemon does only after minutes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import bert
import msgspec
import pytest
from daemon_process import PATIENCE, poll
from full_house import ready

from edge.metrics import Metrics
from edge.runtime import hang
from edge.runtime.runner import ModelRunner
from edge.tensors import Inference, TextWork
from edge.types import (
    Delta,
    Embedded,
    EngineSettings,
    Event,
    Failed,
    Finished,
    Generation,
    Sampling,
    TextPrompt,
)

SETTINGS = EngineSettings("cpu", 1, None, 2, 512, "f16", 512, 0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker counts as hung after a few of its heartbeats, and not after minutes."""
    monkeypatch.setattr(hang, "STILL_SECONDS", 3.0)


@asynccontextmanager
async def running(path: Path, settings: EngineSettings = SETTINGS) -> AsyncIterator[ModelRunner]:
    runner = ModelRunner("m", path, settings, Metrics())
    async with ready(runner):
        yield runner


async def until(condition: Callable[[], object]) -> None:
    """Poll while the loop goes on."""
    await asyncio.to_thread(poll, condition, "what the test waits for")


class Sink:
    """Collects the events of one generation."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], (Finished, Failed))


def generation(**fields: int) -> Generation:
    prompt, sampling = TextPrompt("The sea is"), Sampling(temperature=0)
    return Generation("g", prompt, sampling, ignore_eos=True, **{"max_tokens": 30, **fields})


async def test_a_stopped_worker_is_replaced(default_model_path: Path) -> None:
    """SIGSTOP in mid-stream: after STILL_SECONDS there is a new worker, and the stream goes on."""
    async with running(default_model_path) as runner:
        sink, pid = Sink(), runner.pid
        assert pid is not None
        runner.submit(generation(), sink)
        await until(lambda: bool(sink.text))
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: sink.ended)
        assert runner.restarts == 1
        assert runner.pid not in (None, pid)
        finished = sink.events[-1]
        assert isinstance(finished, Finished)
        assert finished.usage.completion_tokens == 30
        assert sum(len(event.tokens) for event in sink.events if isinstance(event, Delta)) == 30


async def test_an_idle_worker_that_is_stopped_is_replaced(default_model_path: Path) -> None:
    """Its heartbeat is missed, although nobody waits for anything."""
    async with running(default_model_path) as runner:
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGSTOP)
        await until(lambda: runner.restarts == 1 and runner.state == "ready")


async def test_a_stopped_worker_that_embeds_is_replaced(tmp_path: Path) -> None:
    """What it was given while it was stopped is given to the next one."""
    path = bert.as_gguf(tmp_path / "m.gguf", bert.random_bert(seed=5), bert.minilm_tokenizer())
    embeds = msgspec.structs.replace(SETTINGS, slots=1, context=0, embeds=True)
    async with running(path, embeds) as runner:
        sink, pid = Sink(), runner.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        runner.submit(Inference("e", "m", TextWork(["The sea is"])), sink)
        await until(lambda: isinstance(sink.events and sink.events[-1], Embedded))
        assert (runner.restarts, runner.pid == pid) == (1, False)


async def test_an_idle_worker_is_not_taken_for_hung(
    default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats come more often than STILL_SECONDS: three of them, and it is still the same."""
    async with running(default_model_path) as runner:
        pid, beats = runner.pid, 0
        seen = runner.stats
        while beats < 3:
            await until(lambda seen=seen: runner.stats is not seen)
            seen, beats = runner.stats, beats + 1
        assert (runner.pid, runner.restarts) == (pid, 0)


async def test_stopping_while_it_restarts(default_model_path: Path) -> None:
    """A runner that is stopped between two workers ends, and its live requests fail."""
    async with running(default_model_path) as runner:
        sink = Sink()
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGKILL)
        await until(lambda: runner.state == "restarting")
        runner.submit(generation(), sink)
    assert runner.state == "stopped"
    assert isinstance(sink.events[-1], Failed)
    assert runner.live == 0


async def test_stopping_while_the_worker_is_started(default_model_path: Path) -> None:
    """Before there is a process to talk to: the runner ends all the same."""
    runner = ModelRunner("m", default_model_path, SETTINGS, Metrics())
    task = asyncio.create_task(runner.run())
    await asyncio.sleep(0)
    await runner.stop()
    await asyncio.wait_for(task, PATIENCE)
    assert (runner.state, runner.pid) == ("stopped", None)


async def test_a_model_that_vanished(default_model_path: Path, tmp_path: Path) -> None:
    """A worker that cannot be replaced fails the requests, with the reason; when the file is
    back, so is the model."""
    path = tmp_path / "m.gguf"
    path.symlink_to(default_model_path)
    async with running(path) as runner:
        sink = Sink()
        assert runner.pid is not None
        path.unlink()
        runner.submit(generation(), sink)
        await until(lambda: bool(sink.text))
        os.kill(runner.pid, signal.SIGKILL)
        await until(lambda: sink.ended)
        failed = sink.events[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "model_load_failed"
        assert runner.state == "failed"
        path.symlink_to(default_model_path)
        await until(lambda: runner.state == "ready")
        again = Sink()
        runner.submit(generation(), again)
        await until(lambda: again.ended)
        assert isinstance(again.events[-1], Finished)
