"""Which ONNX models are loaded, and what makes way: versions, memory, time to live, limits."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from onnx_models import MINILM_INT8, adder, fetched, install, patient, weighty
from onnx_serving import PATIENCE, arrays_of, inference, serving, tensors

from edge.config.doors import Limits
from edge.errors import (
    BadModelFile,
    DeadlineExceeded,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
)
from edge.inference.memory import PROCESS_BYTES, predicted_bytes
from edge.inference.models import OnnxModels
from edge.modelstore import locks
from edge.runtime.guard import Room

ONE = np.ones((1, 4), np.float32)


def endless() -> dict[str, object]:
    return {"x": ONE, "rounds": np.array([[10**9]], np.int64)}


async def test_versions_answer_side_by_side(tmp_path: Path) -> None:
    folder = install(tmp_path, "add", adder(), version=1)
    async with serving(tmp_path) as models:
        assert (await models.infer(inference("add", tensors(a=ONE, b=ONE)))).version == 1
        install(tmp_path, "add", adder(width=2), version=2)
        two = np.ones((1, 2), np.float32)
        assert (await models.infer(inference("add", tensors(a=two, b=two)))).version == 2
        first = await models.infer(inference("add", tensors(a=ONE, b=ONE), version=1))
        assert first.version == 1
        assert models.versions("add") == [1, 2]
        with pytest.raises(ModelNotFound, match="no version 3"):
            await models.facts("add", 3)
        (folder / "config.pbtxt").write_text("max_batch_size: x")
        with pytest.raises(BadModelFile, match=r"add/config.pbtxt: `max_batch_size`"):
            await models.facts("add")
        assert not models.is_ready("add")
        assert models.status().models[0].state == "failed"


async def test_what_was_put_right_is_loaded_at_once(tmp_path: Path) -> None:
    folder = install(
        tmp_path,
        "add",
        adder(),
        config="max_batch_size: 4\ninput { name: 'c' data_type: TYPE_FP32 dims: 4 }",
    )
    async with serving(tmp_path) as models:
        with pytest.raises(BadModelFile, match="has the input `c`; the model has a, b"):
            await models.facts("add")
        with pytest.raises(BadModelFile, match="could not be loaded"):
            await models.facts("add")
        (folder / "config.pbtxt").write_text("max_batch_size: 4")
        assert (await models.facts("add")).max_batch == 4


@pytest.mark.parametrize(
    ("config", "batch", "said"),
    [
        ("max_batch_size: 4", 4, "first dimension of an input or output is not free"),
        ("input { name: 'a' data_type: TYPE_FP32 dims: [1, 4] }", 1, None),
        ("input { name: 'a' data_type: TYPE_FP32 dims: [1, 5] }", 1, r"is FP32 \[1, 5\]"),
        ("input { name: 'a' data_type: TYPE_INT8 dims: [1, 4] }", 1, r"is INT8 \[1, 4\]"),
    ],
)
async def test_a_configuration_is_compared_with_the_model(
    tmp_path: Path, config: str, batch: int, said: str | None
) -> None:
    install(tmp_path, "add", adder(batch=1), config=config)
    async with serving(tmp_path) as models:
        if said is None:
            assert (await models.facts("add")).max_batch == 0
        else:
            with pytest.raises(BadModelFile, match=said):
                await models.facts("add")


async def test_the_one_used_longest_ago_makes_way(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        install(tmp_path, name, weighty(2_000_000))
    each = predicted_bytes((tmp_path / "a" / "1" / "model.onnx").stat().st_size, 32)
    async with serving(tmp_path) as models:
        models.loader.room = lambda: Room(
            None, left=2 * each + PROCESS_BYTES - models.loader.claim().promised
        )
        for name in ("a", "b", "a", "c"):
            await models.facts(name)
        assert states(models) == {"a": "ready", "b": "unloaded", "c": "ready"}
        assert models.worker.promised_bytes == 2 * each + PROCESS_BYTES
        models.loader.room = lambda: Room(None, left=each // 2)
        with pytest.raises(OutOfMemory, match=r"its files have 2 MB, for which about \d+ MB"):
            await models.facts("b")
        assert set(states(models).values()) == {"unloaded", "failed"}


async def test_idle_ones_make_way_for_a_language_model(tmp_path: Path) -> None:
    for name in "ab":
        install(tmp_path, name, adder())
    async with serving(tmp_path) as models:
        assert not models.loader.make_way()
        await models.facts("a")
        await models.facts("b")
        for expected in ({"a": "unloaded", "b": "ready"}, {"a": "unloaded", "b": "unloaded"}):
            assert models.loader.make_way()
            while states(models) != expected:  # noqa: ASYNC110 - another process is told to
                await asyncio.sleep(0.005)
        assert not models.loader.make_way()
        assert models.loader.claim().promised == 0


def states(models: OnnxModels) -> dict[str, str]:
    return {one.name: one.state for one in models.status().models}


async def test_what_is_in_use_stays(tmp_path: Path) -> None:
    install(tmp_path, "slow", patient(), manifest="batch: {max: 1}")
    install(tmp_path, "add", adder())
    async with serving(tmp_path, ttl=0.01) as models:
        busy = asyncio.create_task(models.infer(inference("slow", tensors(**endless()))))
        while not models.worker.computing:  # noqa: ASYNC110 - it is another process that works
            await asyncio.sleep(0.005)
        models.loader.room = lambda: Room(None, left=1)
        with pytest.raises(OutOfMemory):
            await models.facts("add")
        assert models.status().models[1].state == "ready"
        busy.cancel()


async def test_a_file_in_use_is_nobody_elses(tmp_path: Path) -> None:
    folder = install(tmp_path, "add", adder())
    file = folder / "1" / "model.onnx"
    async with serving(tmp_path) as models:
        await models.facts("add")
        with locks.alone(file) as alone:
            assert not alone
    with locks.alone(file) as alone:
        assert alone


async def test_a_deadline_ends_the_wait_and_the_work(tmp_path: Path) -> None:
    install(tmp_path, "slow", patient(), manifest="batch: {max: 1}")
    async with serving(tmp_path) as models:
        await models.facts("slow")
        late = inference("slow", tensors(**endless()), deadline=time.monotonic() + 0.2)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(models.infer(late), PATIENCE)
        short = tensors(x=ONE, rounds=np.array([[1]], np.int64))
        answer = await asyncio.wait_for(models.infer(inference("slow", short)), PATIENCE)
        assert np.array_equal(arrays_of(answer)["y"], ONE)
        with pytest.raises(DeadlineExceeded):
            await models.infer(inference("slow", short, deadline=time.monotonic() - 1))


async def test_who_would_wait_too_long_is_told(tmp_path: Path) -> None:
    install(tmp_path, "slow", patient(), manifest="batch: {max: 1}")
    limits = Limits(max_waiting=2, max_wait_seconds=0.5)
    async with serving(tmp_path, limits=limits) as models:
        while models.status().models[0].state != "ready":
            with suppress(ModelLoading):
                await models.facts("slow")
        asked = [models.infer(inference("slow", tensors(**endless()))) for _ in range(8)]
        tasks = [asyncio.create_task(one) for one in asked]
        _, under_way = await asyncio.wait(tasks, timeout=PATIENCE, return_when="FIRST_COMPLETED")
        while len(under_way) > 1:
            _, under_way = await asyncio.wait(under_way, return_when="FIRST_COMPLETED")
        refused = [task.exception() for task in tasks if task.done()]
        assert all(isinstance(error, Overloaded) for error in refused)
        said = [str(error) for error in refused]
        assert sum("wait already" in one for one in said) == 4  # 2 ahead and 2 that may wait
        assert sum("no slot was free" in one for one in said) == 3
        under_way.pop().cancel()


async def test_a_provider_that_is_named_is_insisted_on(tmp_path: Path) -> None:
    install(tmp_path, "add", adder(), config="instance_group { kind: KIND_GPU }")
    async with serving(tmp_path) as models:
        assert (await models.facts("add")).provider == "cpu"
    async with serving(tmp_path, provider="cuda") as models:
        with pytest.raises(ModelLoadFailed, match=r"onnx.provider is cuda, and this onnxruntime"):
            await models.facts("add")


async def test_patience_with_a_load_has_an_end(tmp_path: Path) -> None:
    install(tmp_path, "minilm", fetched(MINILM_INT8, "model.onnx"))
    async with serving(tmp_path, limits=Limits(max_wait_seconds=0.001)) as models:
        with pytest.raises(ModelLoading, match="not loaded in time"):
            await models.facts("minilm")
