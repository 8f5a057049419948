"""Task `tensors`: every datatype there and back, and what is refused before it is computed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper
from onnx_models import DATATYPES, SILERO, adder, built, fetched, identity, install
from onnx_serving import arrays_of, inference, serving, tensors

from edge.errors import InferenceFailed, InvalidRequest
from edge.onnx.elements import NUMPY, to_tensor
from edge.tensors import Tensor, TensorResult, TensorWork, TextWork

ONES = np.ones((2, 4), np.float32)


async def test_every_datatype_comes_back_as_it_went(tmp_path: Path) -> None:
    dice = np.random.default_rng(3)
    sent: dict[str, Tensor] = {}
    for datatype, dtype in NUMPY.items():
        raw = dice.bytes(6 * dtype.itemsize)
        array = np.frombuffer(raw, dtype) if datatype != "BOOL" else np.arange(6) % 2 == 0
        if array.dtype.kind == "f":
            array = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.5], dtype)
        sent[datatype] = to_tensor("x", datatype, array.reshape(2, 3))
    texts = np.array([["", "a", "né"], ["\0", "x" * 5000, "日本"]], dtype=object)
    sent["BYTES"] = to_tensor("x", "BYTES", texts)
    assert sent.keys() == DATATYPES.keys()
    for datatype in sent:
        install(tmp_path, datatype.lower(), identity(datatype))
    async with serving(tmp_path) as models:
        for datatype, tensor in sent.items():
            answer = await models.infer(inference(datatype.lower(), TensorWork([tensor])))
            assert isinstance(answer.result, TensorResult)
            (back,) = answer.result.outputs
            assert (back.datatype, back.shape, back.data) == (datatype, [2, 3], tensor.data)


@pytest.mark.parametrize(
    ("work", "param", "said"),
    [
        (tensors(a=ONES), "inputs.b", "missing"),
        (tensors(a=ONES, b=ONES, c=ONES), "inputs.c", "has no input `c`; it has a, b"),
        (tensors(a=ONES, b=ONES.astype(np.float64)), "inputs.b", "FP64, and the model takes FP32"),
        (tensors(a=ONES, b=ONES[:, :3]), "inputs.b", r"\[2, 3\], and the model takes \[-1, 4\]"),
        (tensors(a=ONES, b=ONES[0]), "inputs.b", "has the shape"),
        (tensors(a=ONES, b=ONES[:1]), "inputs", "as many rows"),
        (tensors(a=ONES[:0], b=ONES[:0]), "inputs", "at least one"),
        (tensors(("c",), a=ONES, b=ONES), "outputs.c", "has no output `c`; it has sum"),
        (TensorWork([*tensors(a=ONES).inputs, *tensors(a=ONES).inputs]), "inputs.a", "twice"),
        (TensorWork([Tensor("a", "FP32", [2, 4], bytes(31))]), "inputs.a", "has 31 bytes"),
        (TensorWork([Tensor("a", "FP32", [1 << 40, 4], bytes(16))]), "inputs.a", "has 16 bytes"),
        (TensorWork([Tensor("a", "FP32", [-2, 4], bytes(32))]), "inputs.a", "its shape is"),
        (TextWork(["a text"]), "model", "takes tensors"),
    ],
)
async def test_what_is_refused(tmp_path: Path, work: Any, param: str, said: str) -> None:
    install(tmp_path, "add", adder())
    async with serving(tmp_path) as models:
        with pytest.raises(InvalidRequest, match=said) as refused:
            await models.infer(inference("add", work))
        assert refused.value.param == param
        assert (await models.infer(inference("add", tensors(a=ONES, b=ONES)))).rows == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\1\0\0\0a\2\0", "ends within the length"),
        (b"\1\0\0\0a\7\0\0\0b", "ends within element 1"),
        (b"\1\0\0\0a\1\0\0\0\xff", "element 1 is not UTF-8"),
        (b"\1\0\0\0a", "has 1 elements"),
    ],
)
async def test_texts_that_are_cut_or_none(tmp_path: Path, data: bytes, said: str) -> None:
    install(tmp_path, "id", identity("BYTES"))
    async with serving(tmp_path) as models:
        with pytest.raises(InvalidRequest, match=said):
            await models.infer(inference("id", TensorWork([Tensor("x", "BYTES", [1, 2], data)])))


async def test_more_rows_than_a_batch_are_computed_in_several(tmp_path: Path) -> None:
    install(tmp_path, "add", adder(), manifest="batch: {max: 4}")
    a = np.arange(44, dtype=np.float32).reshape(11, 4)
    async with serving(tmp_path) as models:
        answer = await models.infer(inference("add", tensors(a=a, b=a)))
    assert np.array_equal(arrays_of(answer)["sum"], a + a)


async def test_a_state_goes_in_and_comes_out(tmp_path: Path) -> None:
    """A model without batches, with an input that has no dimensions."""
    path = fetched(SILERO, "silero_vad.onnx")
    install(tmp_path, "vad", path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sound = np.sin(np.arange(512, dtype=np.float32))[None, :]
    given = {"state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}
    async with serving(tmp_path) as models:
        assert (await models.facts("vad")).max_batch == 0
        for _ in range(3):
            expected = dict(
                zip(("output", "stateN"), session.run(None, {"input": sound, **given}), strict=True)
            )
            answer = await models.infer(inference("vad", tensors(input=sound, **given)))
            found = arrays_of(answer)
            assert np.allclose(found["output"], expected["output"], atol=1e-6)
            given["state"] = found["stateN"]


async def test_rows_that_the_model_mixes_are_not_given_to_anybody(tmp_path: Path) -> None:
    """A configuration that says batches of a model whose output has none is found out."""
    mixing = built(
        [helper.make_node("Transpose", ["x"], ["y"])],
        {"x": ("FP32", ["batch", "width"])},
        {"y": ("FP32", ["width", "batch"])},
    )
    install(tmp_path, "mix", mixing, manifest="batch: {max: 8}")
    install(tmp_path, "plain", mixing)
    async with serving(tmp_path) as models:
        with pytest.raises(InferenceFailed, match="first dimension is not for rows"):
            await models.infer(inference("mix", tensors(x=ONES)))
        answer = await models.infer(inference("plain", tensors(x=ONES)))
        assert arrays_of(answer)["y"].shape == (4, 2)


async def test_one_bad_row_fails_alone(tmp_path: Path) -> None:
    """What is joined with it is computed again without it."""
    gather = built(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"x": ("INT64", ["batch"])},
        {"y": ("FP32", ["batch"])},
        {"table": np.arange(4, dtype=np.float32)},
    )
    install(tmp_path, "look", gather, manifest="batch: {max: 8, delay_ms: 200}")
    async with serving(tmp_path) as models:
        await models.facts("look")
        works = [tensors(x=np.array([at], np.int64)) for at in (1, 2, 99, 3)]
        asked = [models.infer(inference("look", work)) for work in works]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    found = [arrays_of(one)["y"][0] for one in answers if not isinstance(one, BaseException)]
    assert found == [1, 2, 3]
    assert isinstance(answers[2], InvalidRequest)
    assert "out of" in answers[2].message
