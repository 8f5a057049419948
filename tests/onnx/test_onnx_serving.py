"""ONNX models from folder to answer: a real worker, real models and small ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx_models import MAGIKA, adder, fetched, install, patient
from onnx_serving import PATIENCE, arrays_of, inference, serving, tensors

from edge.errors import BadModelFile, ModelNotFound
from edge.tensors import TensorWork


async def test_a_folder_is_served(tmp_path: Path) -> None:
    install(tmp_path, "add", adder())
    a, b = np.ones((2, 4), np.float32), np.full((2, 4), 2, np.float32)
    async with serving(tmp_path) as models:
        assert models.names() == ["add"]
        facts = await models.facts("add")
        inferred = await models.infer(inference("add", tensors(a=a, b=b)))
    assert (facts.version, facts.provider, facts.max_batch) == (1, "cpu", 32)
    assert [one.shape for one in facts.inputs] == [[-1, 4], [-1, 4]]
    assert np.array_equal(arrays_of(inferred)["sum"], a + b)


async def test_a_real_model_answers_as_onnxruntime_does(tmp_path: Path) -> None:
    path = fetched(MAGIKA, "model.onnx")
    install(tmp_path, "magika", path)
    rows = np.random.default_rng(1).integers(0, 257, (3, 2048), dtype=np.int32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"bytes": rows})[0]
    async with serving(tmp_path) as models:
        inferred = await models.infer(inference("magika", tensors(bytes=rows)))
    assert np.allclose(arrays_of(inferred)["target_label"], expected, atol=1e-5)


async def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as models:
        with pytest.raises(ModelNotFound):
            await models.infer(inference("add", tensors()))


async def test_requests_that_come_together_are_computed_together(tmp_path: Path) -> None:
    install(tmp_path, "add", adder(), manifest="batch: {max: 4, delay_ms: 2000}")
    rows = [np.full((1, 4), n, np.float32) for n in range(8)]
    async with serving(tmp_path) as models:
        await models.facts("add")
        works = [
            inference("add", tensors(a=row, b=row), caller=str(n)) for n, row in enumerate(rows)
        ]
        answers = await asyncio.gather(*map(models.infer, works))
    for row, answer in zip(rows, answers, strict=True):
        assert np.array_equal(arrays_of(answer)["sum"], row + row)
    assert sorted(answer.rows for answer in answers)[-4:] == [4, 4, 4, 4]


async def test_instances_compute_side_by_side(tmp_path: Path) -> None:
    """As Triton's configuration says; a short request does not wait for one without an end."""
    install(tmp_path, "slow", patient(), config="instance_group { count: 2 }\nmax_batch_size: 1")
    x = np.ones((1, 4), np.float32)

    def work(rounds: int) -> TensorWork:
        return tensors(x=x, rounds=np.array([[rounds]], np.int64))

    async with serving(tmp_path) as models:
        endless = asyncio.create_task(models.infer(inference("slow", work(10**9))))
        while not models.worker.computing:  # noqa: ASYNC110 - it is another process that works
            await asyncio.sleep(0.005)
        answer = await asyncio.wait_for(models.infer(inference("slow", work(1))), PATIENCE)
        assert np.array_equal(arrays_of(answer)["y"], x)
        assert not endless.done()
        endless.cancel()


async def test_a_file_that_is_half_there_is_asked_for_again(tmp_path: Path) -> None:
    whole = adder()
    folder = install(tmp_path, "add", whole[:60])
    async with serving(tmp_path) as models:
        with pytest.raises(BadModelFile, match="cut or no ONNX model"):
            await models.facts("add")
        with pytest.raises(BadModelFile, match="cut or no ONNX model") as refused:
            await models.facts("add")
        assert refused.value.retry_after
        (folder / "1" / "model.onnx").write_bytes(whole)
        assert (await models.facts("add")).max_batch == 32
