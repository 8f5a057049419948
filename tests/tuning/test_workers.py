"""Candidates measured in real workers with the real model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.errors import ModelLoadFailed
from edge.tuning.candidate import Candidate
from edge.tuning.workers import Work, Workers
from edge.types import EngineSettings

SETTINGS = EngineSettings("cpu", 1, None, 8, 512, "f16", 512, 0)
SMALL = Work(prompt=48, single=6, crowd=3)


@pytest.fixture
def base(default_model_path: Path) -> Candidate:
    return Candidate(default_model_path, SETTINGS)


@pytest.fixture
async def workers(base: Candidate) -> AsyncIterator[Workers]:
    async with Workers(base) as workers:
        workers.work = SMALL
        yield workers
    assert not workers._running


async def test_a_round_measures_everything(workers: Workers, base: Candidate) -> None:
    """Two candidates in turns, each in its own process; what is not kept has ended."""
    other = base.varied("batch", 128)
    first = [await workers.measure(one) for one in (base, other)]
    pids = {runner.pid for runner, _ in workers._running.values()}
    assert len(pids) == 2
    again = [await workers.measure(one) for one in (base, other)]
    assert {runner.pid for runner, _ in workers._running.values()} == pids
    for figures in (*first, *again):
        assert min(figures.prompt, figures.single, figures.crowd) > 0
        assert figures.memory_bytes > 50_000_000
    await workers.keep(other)
    assert len(workers._running) == 1
    assert (await workers.facts(other)).slots == 8


async def test_work_is_fitted_into_the_time(workers: Workers, base: Candidate) -> None:
    """Of much time more is made."""
    await workers.calibrate(base, 1e6)
    assert workers.work == SMALL.scaled(4, 512)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 100.0])
def test_work_fits_the_context_and_measures_something(factor: float) -> None:
    """Whatever the time is."""
    work = Work().scaled(factor, 512)
    assert 64 <= work.prompt <= 512 - 64
    assert 6 <= work.single <= 4 * Work().single
    assert 3 <= work.crowd <= 4 * Work().crowd


@pytest.mark.timeout(300)
async def test_agreement_tells_a_coarse_cache_from_the_right_one(
    workers: Workers, base: Candidate
) -> None:
    """With the settings that the right tokens came from all agree, whatever computes them; with
    4-bit keys and values some do not."""
    workers.compared = 12
    assert await workers.agreement(base.varied("batch", 64)) == 1.0
    await workers.keep()
    assert await workers.agreement(base.varied("kv_type", "q4_0")) < 1.0


async def test_candidate_that_does_not_load_says_why(workers: Workers, base: Candidate) -> None:
    """And leaves no worker behind."""
    with pytest.raises(ModelLoadFailed):
        await workers.measure(base.varied("weights", "/nowhere.gguf"))
