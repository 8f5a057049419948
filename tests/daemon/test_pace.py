"""A real worker that is told to rest: it does, no alarm waits for that, and it counts as alive."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from test_runner import SETTINGS, Sink, running, until

from edge.runtime import hang
from edge.types import Delta, Generation, Pace, Priority, Sampling, TextPrompt

HARDLY = Pace(batch_duty=1e-9)
"""Batch work rests for hours after each step."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing and does nothing counts as hung after a few of its heartbeats."""
    monkeypatch.setattr(hang, "STILL_SECONDS", 3.0)


class Heard(Sink):
    @property
    def tokens(self) -> list[int]:
        return [token for one in self.events if isinstance(one, Delta) for token in one.tokens]


def generation(name: str, priority: Priority, tokens: int) -> Generation:
    return Generation(
        name,
        TextPrompt(f"{name}: what happened"),
        Sampling(temperature=0),
        max_tokens=tokens,
        ignore_eos=True,
        priority=priority,
    )


async def test_batch_work_rests_and_an_alarm_does_not_wait_for_it(quick_model_path: Path) -> None:
    async with running(quick_model_path, SETTINGS) as runner:
        runner.keep_pace(HARDLY)
        report, alarm = Heard(), Heard()
        runner.submit(generation("report", "batch", 60), report)
        await until(lambda: report.tokens)
        runner.submit(generation("alarm", "critical", 5), alarm)
        await until(lambda: alarm.ended)
        assert not report.ended
        # It still says that it is there, for longer than a hung one would be let live.
        for _ in range(5):
            said = runner.stats
            await until(lambda said=said: runner.stats is not said)
        assert not report.ended
        assert runner.restarts == 0
        runner.keep_pace(Pace())
        await until(lambda: report.ended)
        assert len(report.tokens) == 60


async def test_next_worker_is_told_the_pace_too(quick_model_path: Path) -> None:
    async with running(quick_model_path, SETTINGS) as runner:
        runner.keep_pace(HARDLY)
        report = Heard()
        runner.submit(generation("report", "batch", 60), report)
        await until(lambda: report.tokens)
        assert runner.pid is not None
        before = len(report.tokens)
        os.kill(runner.pid, signal.SIGKILL)
        await until(lambda: len(report.tokens) > before)
        for _ in range(2):
            said = runner.stats
            await until(lambda said=said: runner.stats is not said)
        assert not report.ended
        runner.keep_pace(Pace())
        await until(lambda: report.ended)
        assert len(report.tokens) == 60
