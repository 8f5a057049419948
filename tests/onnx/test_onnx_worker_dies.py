"""The ONNX worker dies, and what becomes of those that it worked for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from onnx_models import adder, install, patient
from onnx_serving import PATIENCE, arrays_of, inference, serving, tensors

from edge.errors import ModelLoadFailed, WorkerCrashed
from edge.inference.models import OnnxModels
from edge.metrics import Metrics
from edge.onnx.protocol import LoadModel
from edge.runtime import hang, onnx_runner
from edge.runtime.ask import ask
from edge.runtime.process import WorkerProcess
from edge.runtime.runner import ModelRunner
from edge.tensors import TensorWork
from edge.types import EngineSettings, Generation, Sampling, TextPrompt


def long_work(rounds: int, value: float = 1.0) -> TensorWork:
    x = np.full((1, 4), value, np.float32)
    return tensors(x=x, rounds=np.array([[rounds]], np.int64))


async def until(true: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not true():  # noqa: ASYNC110 - it is another process that changes
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), PATIENCE)


def computing(models: OnnxModels) -> bool:
    return bool(models.worker.computing)


def kill(models: OnnxModels) -> None:
    pid = models.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def kill_and_wait(models: OnnxModels) -> None:
    """Until its death was noticed."""
    before = models.worker.restarts
    kill(models)
    await until(lambda: models.worker.restarts > before)


async def test_all_are_answered_by_the_next_worker(tmp_path: Path) -> None:
    install(tmp_path, "slow", patient(), manifest="batch: {max: 4}")
    install(tmp_path, "add", adder())
    async with serving(tmp_path) as models:
        await models.facts("slow")
        one = np.ones((1, 4), np.float32)
        asked = [models.infer(inference("slow", long_work(20_000, n))) for n in range(20)]
        asked += [models.infer(inference("add", tensors(a=one, b=one)))]
        tasks = [asyncio.create_task(one) for one in asked]
        await until(lambda: computing(models))
        kill(models)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        assert models.worker.restarts == 1
    for n, answer in enumerate(answers[:-1]):
        assert np.array_equal(arrays_of(answer)["y"], np.full((1, 4), n, np.float32))
    assert np.array_equal(arrays_of(answers[-1])["sum"], one + one)


async def test_a_request_that_kills_it_twice_fails_alone(tmp_path: Path) -> None:
    install(tmp_path, "slow", patient(), manifest="batch: {max: 1}")
    async with serving(tmp_path) as models:
        await models.facts("slow")
        fatal = asyncio.create_task(models.infer(inference("slow", long_work(10**9))))
        await until(lambda: computing(models))
        waiting = asyncio.create_task(models.infer(inference("slow", long_work(1))))
        for _ in range(2):
            await until(lambda: computing(models))
            await kill_and_wait(models)
        with pytest.raises(WorkerCrashed, match="died twice"):
            await asyncio.wait_for(fatal, PATIENCE)
        assert (await asyncio.wait_for(waiting, PATIENCE)).rows == 1


async def test_what_is_broken_off_holds_nobody_up(tmp_path: Path) -> None:
    """A cancelled inference ends in the middle of its computation, and so does a late one."""
    install(tmp_path, "slow", patient(), manifest="batch: {max: 1}")
    async with serving(tmp_path) as models:
        await models.facts("slow")
        endless = asyncio.create_task(models.infer(inference("slow", long_work(10**9))))
        await until(lambda: computing(models))
        endless.cancel()
        answer = await asyncio.wait_for(models.infer(inference("slow", long_work(1))), PATIENCE)
        assert answer.rows == 1
        assert models.worker.restarts == 0


async def test_it_goes_when_the_last_model_does(tmp_path: Path) -> None:
    install(tmp_path, "add", adder())
    one = np.ones((1, 4), np.float32)
    async with serving(tmp_path, ttl=0.01) as models:
        await models.facts("add")
        await until(lambda: models.worker.pid is None)
        assert models.worker.promised_bytes == 0
        await models.infer(inference("add", tensors(a=one, b=one)))
        assert models.worker.restarts == 0


async def test_it_dies_while_it_loads(tmp_path: Path) -> None:
    """The load is tried once more, and the model is served."""
    install(tmp_path, "add", adder())
    async with serving(tmp_path) as models:
        facts = asyncio.create_task(models.facts("add"))
        await until(lambda: models.worker.pid is not None)
        kill(models)
        assert (await asyncio.wait_for(facts, PATIENCE)).name == "add"


@pytest.mark.parametrize("how", ["stopped", "endless"])
async def test_one_that_hangs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Stopped by somebody, or with a computation that does not end."""
    monkeypatch.setattr(hang, "STILL_SECONDS", 3.0)
    monkeypatch.setattr(onnx_runner, "BATCH_SECONDS", 5.0)
    install(tmp_path, "slow", patient(), manifest="batch: {max: 1}")
    install(tmp_path, "add", adder())
    one = np.ones((1, 4), np.float32)
    async with serving(tmp_path) as models:
        await models.facts("slow")
        await models.facts("add")
        endless = asyncio.create_task(models.infer(inference("slow", long_work(10**9))))
        await until(lambda: computing(models))
        if how == "stopped":
            assert models.worker.pid is not None
            os.kill(models.worker.pid, signal.SIGSTOP)
            answer = await asyncio.wait_for(models.infer(inference("add", add(one))), PATIENCE)
            assert np.array_equal(arrays_of(answer)["sum"], one + one)
            endless.cancel()
        else:
            with pytest.raises(WorkerCrashed, match="died twice"):
                await asyncio.wait_for(endless, PATIENCE)
        assert models.worker.restarts == (1 if how == "stopped" else 2)


def add(one: Any) -> TensorWork:
    return tensors(a=one, b=one)


async def test_it_steps_back_behind_others(tmp_path: Path) -> None:
    install(tmp_path, "add", adder())
    async with serving(tmp_path, nice=7) as models:
        await models.facts("add")
        worker = psutil.Process(models.worker.pid)
        wanted = min(19, psutil.Process().nice() + 7)
        assert worker.nice() == wanted
        shares = Path(f"/proc/{worker.pid}/autogroup")
        share = await asyncio.to_thread(lambda: shares.read_text() if shares.exists() else None)
        assert share is None or share.endswith(f"nice {wanted}\n")


async def test_a_model_that_kills_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second time; and models that were loaded before are there again."""
    install(tmp_path, "add", adder())
    install(tmp_path, "fatal", adder())
    one = np.ones((1, 4), np.float32)
    async with serving(tmp_path) as models:
        await models.facts("add")
        send = WorkerProcess.send

        def killing(self: WorkerProcess[Any], command: msgspec.Struct) -> None:
            send(self, command)
            if isinstance(command, LoadModel) and command.spec.name == "fatal":
                self.kill()

        monkeypatch.setattr(WorkerProcess, "send", killing)
        with pytest.raises(ModelLoadFailed, match="died twice while loading"):
            await asyncio.wait_for(models.facts("fatal"), PATIENCE)
        answer = await asyncio.wait_for(models.infer(inference("add", add(one))), PATIENCE)
        assert np.array_equal(arrays_of(answer)["sum"], one + one)


async def test_it_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is told, and whoever asks later is served."""
    install(tmp_path, "add", adder())
    monkeypatch.setattr(onnx_runner, "WORKER", "edge.nothing")
    async with serving(tmp_path) as models:
        with pytest.raises(ModelLoadFailed, match=r"does not start \(exit code 1\)"):
            await asyncio.wait_for(models.facts("add"), PATIENCE)
        monkeypatch.setattr(onnx_runner, "WORKER", "edge.onnx.worker")
        models.loader.entries["add/1"].retry_at = 0.0
        assert (await asyncio.wait_for(models.facts("add"), PATIENCE)).name == "add"


async def test_a_language_model_does_not_notice(tmp_path: Path, default_model_path: Path) -> None:
    """Its answer is the same, and from the same worker, while the other one is killed at work."""
    install(tmp_path, "slow", patient(), manifest="batch: {max: 4}")
    settings = EngineSettings("cpu", 1, None, 2, 512, "f16", 512, 0)
    runner = ModelRunner("m", default_model_path, settings, Metrics())
    running = asyncio.create_task(runner.run())
    await asyncio.wait_for(runner.loaded.wait(), PATIENCE)
    asked = Generation(
        *("g", TextPrompt("The sea is"), Sampling(temperature=0), 40), ignore_eos=True
    )
    (alone,) = await ask(runner, [asked])
    async with serving(tmp_path) as models:
        await models.facts("slow")
        works = [models.infer(inference("slow", long_work(3000, n))) for n in range(30)]
        tasks = [asyncio.create_task(work) for work in works]
        beside = asyncio.create_task(ask(runner, [asked]))
        for _ in range(2):
            await until(lambda: computing(models))
            await kill_and_wait(models)
        ((said,), *_) = await asyncio.wait_for(asyncio.gather(beside), PATIENCE)
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    assert said.text == alone.text
    assert runner.restarts == 0
    crashed = [one for one in answers if isinstance(one, WorkerCrashed)]
    assert len(crashed) <= 4
    for n, answer in enumerate(answers):
        if answer not in crashed:
            assert not isinstance(answer, BaseException)
            assert np.array_equal(arrays_of(answer)["y"], np.full((1, 4), n, np.float32))
    await runner.stop()
    await running
