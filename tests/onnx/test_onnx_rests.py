"""A worker of ONNX models rests between its batches where the machine is hot."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from onnx_models import install, patient
from onnx_serving import PATIENCE, inference, serving, tensors

from edge.errors import DeadlineExceeded
from edge.inference.models import OnnxModels
from edge.types import Pace, Priority

HOT = Pace(duty=0.25, batch_duty=0.125)
NORMAL, BATCH = 3 * 0.8, 7 * 0.8
"""Seconds of rest for each of work, and a fifth less: an answer's time is that of telling, too."""

ROUNDS = 5_000


async def rested(models: OnnxModels, priority: Priority, number: int = 6) -> float:
    """Seconds without computation for each of computation before the last, of requests one after
    the other."""
    work = tensors(x=np.ones((1, 4), np.float32), rounds=np.array([[ROUNDS]], np.int64))
    seconds, began = [], time.monotonic()
    for _ in range(number):
        asked = models.infer(inference("slow", work, priority=priority))
        seconds.append((await asyncio.wait_for(asked, PATIENCE)).seconds)
    return (time.monotonic() - began - sum(seconds)) / sum(seconds[:-1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    install(tmp_path, "slow", patient(), manifest="batch: {max: 4}")
    return tmp_path


async def test_it_computes_so_much_of_the_time(folder: Path) -> None:
    async with serving(folder) as models:
        await models.facts("slow")
        models.runner.keep_pace(HOT)
        assert await rested(models, "normal") > NORMAL
        assert await rested(models, "batch") > BATCH
        assert await rested(models, "critical") < NORMAL
        models.runner.keep_pace(Pace())
        assert await rested(models, "normal") < NORMAL


async def test_a_new_worker_and_a_new_model_keep_the_pace(folder: Path) -> None:
    async with serving(folder) as models:
        models.runner.keep_pace(HOT)
        await models.facts("slow")
        assert await rested(models, "normal") > NORMAL
        restarts, pid = models.runner.restarts, models.runner.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while models.runner.restarts == restarts or models.runner.up is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await rested(models, "normal") > NORMAL


async def test_nobody_urgent_waits_for_a_rest_to_end(folder: Path) -> None:
    work = tensors(x=np.ones((1, 4), np.float32), rounds=np.array([[ROUNDS]], np.int64))
    async with serving(folder) as models:
        await models.facts("slow")
        models.runner.keep_pace(Pace(duty=0.0001))
        await models.infer(inference("slow", work))
        rests = asyncio.create_task(models.infer(inference("slow", work)))
        late = inference("slow", work, deadline=time.monotonic() + 0.5)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(models.infer(late), PATIENCE)
        urgent = models.infer(inference("slow", work, priority="critical"))
        await asyncio.wait_for(urgent, PATIENCE)
        assert not rests.done()
        models.runner.keep_pace(Pace())
        await asyncio.wait_for(rests, PATIENCE)
