"""Model files that are broken, foreign or meant ill: refused by name, and nobody else notices."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import (
    MAGIKA,
    SILERO,
    adder,
    external,
    fetched,
    identity,
    install,
    patient,
    unknown_operator,
    weighty,
)
from onnx_serving import arrays_of, inference, serving, tensors

from edge.errors import BadModelFile, EdgeError
from edge.repository.onnxfile import check

SEEDS = (adder(), identity("BYTES"), patient(), weighty(20_000), external("w.bin", 8, 4))


def mutant(seed: bytes, dice: random.Random) -> bytes:
    """A model file with something done to it that happens to files, or that somebody would do."""
    data = bytearray(seed)
    at = dice.randrange(len(data))
    kind = dice.randrange(6)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at] ^= 1 << dice.randrange(8)
    elif kind == 2:
        data[at : at + dice.randrange(1, 9)] = dice.randbytes(dice.randrange(9))
    elif kind == 3:
        data[at:at] = data[at : at + dice.randrange(1, 60)]
    elif kind == 4:
        data[at] = 0xFF
    else:
        for _ in range(dice.randrange(1, 20)):
            data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def test_mutants_are_looked_at_or_refused(tmp_path: Path) -> None:
    """Nothing but a `BadModelFile` comes out of a look at a file, whatever is in it."""
    file, dice, refusals = tmp_path / "model.onnx", random.Random(7), []
    for number in range(3000):
        file.write_bytes(mutant(SEEDS[number % len(SEEDS)], dice))
        try:
            check(file)
        except BadModelFile as error:
            refusals.append(error.message)
    assert len(refusals) > 1000
    assert all(refusals)


async def test_mutants_are_loaded_or_refused(tmp_path: Path) -> None:
    """A thousand of them, by the worker and its onnxruntime: a neighbour is served meanwhile, and
    one that kills the worker is refused like the others."""
    dice = random.Random(11)
    for number in range(1000):
        install(tmp_path, f"m{number}", mutant(SEEDS[number % len(SEEDS)], dice))
    install(tmp_path, "add", adder())
    one = np.ones((1, 4), np.float32)
    loaded, refusals = 0, []
    async with serving(tmp_path) as models:
        for number in range(1000):
            try:
                await models.facts(f"m{number}")
                loaded += 1
            except EdgeError as error:
                refusals.append(error.message)
            if number % 100 == 0:
                answer = await models.infer(inference("add", tensors(a=one, b=one)))
                assert np.array_equal(arrays_of(answer)["sum"], one + one)
        assert models.worker.restarts == 0
    assert min(loaded, len(refusals)) > 50
    assert all(refusals)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"", "empty"),
        (b"GGUF" + bytes(100), "no ONNX model"),
        (adder()[:-20], "cut or no ONNX model"),
        (unknown_operator(), "Frobnicate"),
        (external("../secret.bin"), "outside of the model's folder"),
        (external("/etc/passwd"), "outside of the model's folder"),
        (external("*/_ORT_MEM_ADDR_/*"), "no such file"),
        (external("there.bin"), "`w` is to end at 4,096"),
        (external("there.bin", 2, 2, length=999), "999 are said"),
        (external("link.bin"), "outside of the model's folder"),
    ],
)
async def test_the_reason_is_said(tmp_path: Path, model: bytes, reason: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8192))
    folder = install(tmp_path / "models", "bad", model)
    (folder / "1" / "there.bin").write_bytes(bytes(16))
    (folder / "1" / "link.bin").symlink_to(tmp_path / "secret.bin")
    install(tmp_path / "models", "good", adder())
    async with serving(tmp_path / "models") as models:
        with pytest.raises(BadModelFile, match="bad could not be loaded") as refused:
            await models.facts("bad")
        assert reason in refused.value.message
        assert not models.is_ready("bad")
        assert (await models.facts("good")).name == "good"


async def test_weights_in_another_file_are_read(tmp_path: Path) -> None:
    folder = install(tmp_path, "ext", external("w.bin", 2, 2))
    w = np.array([[1, 2], [3, 4]], np.float32)
    (folder / "1" / "w.bin").write_bytes(w.tobytes())
    x = np.array([[1, 1]], np.float32)
    async with serving(tmp_path) as models:
        answer = await models.infer(inference("ext", tensors(x=x)))
    assert np.array_equal(arrays_of(answer)["y"], x @ w)


def huge() -> bytes:
    """Weights of 4 GB in a file of some hundred bytes."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 15, 1 << 15])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1 << 15])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1 << 15])
    graph = helper.make_graph([node], "g", [value], [output], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    graph = b""
    for _ in range(depth):
        attribute = _field(6, graph)
        graph = _field(1, _field(5, attribute))
    return b"\x08\x08" + _field(7, graph)


def _field(number: int, contents: bytes) -> bytes:
    size, rest = b"", len(contents)
    while rest >= 128:
        size, rest = size + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + size + bytes([rest]) + contents


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (huge(), "1,073,741,824 elements, and there are 0 bytes"),
        (nested(2000), "nested deeper than 100"),
        (b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x0f" + bytes(20), "stands at byte"),
        (b"\x08" + b"\xff" * 20, "stands at byte"),
    ],
)
def test_it_is_seen_in_the_file(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    with pytest.raises(BadModelFile, match=reason):
        check(file)


@pytest.mark.parametrize(
    "path", [fetched(MAGIKA, "model.onnx"), fetched(SILERO, "silero_vad.onnx")], ids=str
)
def test_real_files_pass(path: Path) -> None:
    contents = check(path)
    assert contents.has_graph
    assert contents.opset >= 15
