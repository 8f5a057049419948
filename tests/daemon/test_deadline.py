"""Work whose time is over: it ends on time, in the line and in a slot, and nobody computes it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from daemon_process import PATIENCE, SLOWER, DaemonProcess, Start, poll

from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner
from edge.types import Delta, EngineSettings, Event, Failed, Finished, Generation, Sampling
from edge.types import TextPrompt as Text

SETTINGS = EngineSettings("cpu", 1, None, 1, 2048, "f16", 512, 0)


def body(tokens: int, **edge: Any) -> dict[str, Any]:
    # Drawn at random: what repeats itself is drafted, and can be done within any deadline.
    sampling = {"temperature": 1, "max_tokens": tokens, "ignore_eos": True}
    return {**sampling, "prompt": "The report of the day shift says", "edge": edge}


def late(daemon: DaemonProcess, tokens: int) -> None:
    answer = daemon.post("/v1/completions", body(tokens, deadline_ms=400))
    assert answer.status_code == 408, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("deadline_exceeded", "edge.deadline_ms")


def test_late_in_the_line_and_in_a_slot(start: Start) -> None:
    """Both get 408. The one before them has its whole answer, and the books are even."""
    daemon = start(engine__slots=1).wait_ready()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(daemon.post, "/v1/completions", body(400))
        daemon.wait_running(1)
        late(daemon, 5)
        assert not first.done()
        assert first.result().json()["usage"]["completion_tokens"] == 400
    late(daemon, 480)
    daemon.wait_idle()


class Heard:
    """Collects the events of one generation."""

    def __init__(self, runner: ModelRunner, name: str, tokens: int, deadline: float | None) -> None:
        self.events: list[Event] = []
        sampling = Sampling(temperature=0)
        asked = Generation(
            name,
            Text(f"{name}: once"),
            sampling,
            max_tokens=tokens,
            ignore_eos=True,
            deadline=deadline,
        )
        runner.submit(asked, self.events.append)

    @property
    def tokens(self) -> int:
        return sum(len(event.tokens) for event in self.events if isinstance(event, Delta))

    async def end(self) -> Finished | Failed:
        await until(lambda: self.events and isinstance(self.events[-1], (Finished, Failed)))
        last = self.events[-1]
        assert isinstance(last, (Finished, Failed))
        return last


async def until(condition: Any) -> None:
    """Poll while the loop goes on."""
    await asyncio.to_thread(poll, condition, "what the test waits for")


@pytest.fixture
async def runner(default_model_path: Path) -> Any:
    runner = ModelRunner("m", default_model_path, SETTINGS, Metrics())
    task = asyncio.create_task(runner.run())
    await asyncio.wait_for(runner.loaded.wait(), PATIENCE)
    yield runner
    await runner.stop()
    with suppress(asyncio.CancelledError):
        await task


async def test_worker_knows_the_deadline_by_itself(runner: ModelRunner) -> None:
    """No timer of the daemon's is involved: its clock is the worker's."""
    running = Heard(runner, "running", 1500, time.monotonic() + 1.5 * SLOWER)
    await until(lambda: running.tokens)
    waiting = Heard(runner, "waiting", 5, time.monotonic() + 0.2)
    for one in (waiting, running):
        end = await one.end()
        assert isinstance(end, Failed)
        assert end.code == "deadline_exceeded"
    assert not waiting.tokens
    assert 0 < running.tokens < 1500
    assert isinstance(await Heard(runner, "next", 3, None).end(), Finished)


async def test_deadline_holds_for_the_next_worker(runner: ModelRunner) -> None:
    """A worker dies; the next one gets the request again, with the time that it had from the
    beginning, and one whose time is over meanwhile fails once."""
    enough = Heard(runner, "enough", 60, time.monotonic() + PATIENCE)
    short = Heard(runner, "short", 60, time.monotonic() + 0.1)
    await until(lambda: enough.tokens or len(short.events))
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGKILL)
    finished, failed = await enough.end(), await short.end()
    assert isinstance(finished, Finished)
    assert enough.tokens == finished.usage.completion_tokens == 60
    assert isinstance(failed, Failed)
    assert failed.code == "deadline_exceeded"
    assert sum(isinstance(event, Failed) for event in short.events) == 1
