"""Requests as tritonclient writes them, answers as it reads them, and what is wrong with others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from edge.errors import InvalidRequest
from edge.kserve import texts
from edge.kserve.numbers import DTYPES
from edge.kserve.parse import Asked, effort, parse
from edge.kserve.render import Rendered, render
from edge.tensors import Inferred, Tensor, TensorResult

TYPES = sorted([*DTYPES, "BYTES"])
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, finite: bool) -> tuple[Any, Any]:
    """A datatype and an array of it."""
    datatype = draw(st.sampled_from(TYPES))
    if datatype == "BYTES":
        any_text = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
        elements = any_text if finite else st.binary(max_size=5)
        return datatype, draw(arrays.arrays(np.dtype(object), draw(SHAPES), elements=elements))
    dtype = DTYPES[datatype]
    some = {"allow_nan": False, "allow_infinity": False} if finite and dtype.kind == "f" else {}
    elements = arrays.from_dtype(dtype, **some)
    return datatype, draw(arrays.arrays(dtype, draw(SHAPES), elements=elements))


def given_input(name: str, datatype: str, array: Any, binary: bool) -> InferInput:
    one = InferInput(name, list(array.shape), datatype)
    return one.set_data_from_numpy(array, binary_data=binary) or one


def packed(datatype: str, array: Any) -> bytes:
    return texts.packed(list(array.ravel())) if datatype == "BYTES" else array.tobytes()


@given(
    st.lists(st.tuples(tensors(finite=True), st.booleans()), min_size=1, max_size=4),
    st.text(max_size=5),
)
def test_what_tritonclient_sends(inputs: list[tuple[tuple[Any, Any], bool]], name: str) -> None:
    """All types, as JSON and as binary data, mixed in one request."""
    body, length = InferenceServerClient.generate_request_body(
        [given_input(f"{name}{i}", *one, binary=binary) for i, (one, binary) in enumerate(inputs)],
        request_id="42",
    )
    asked = parse(body, length)
    assert asked.id == "42"
    assert [one.name for one in asked.work.inputs] == [f"{name}{i}" for i in range(len(inputs))]
    for tensor, ((datatype, array), _) in zip(asked.work.inputs, inputs, strict=True):
        assert (tensor.datatype, tensor.shape) == (datatype, list(array.shape))
        assert tensor.data == packed(datatype, array)


@given(
    st.lists(st.tuples(tensors(finite=True), st.booleans()), min_size=1, max_size=4),
)
def test_what_tritonclient_reads(outputs: list[tuple[tuple[Any, Any], bool]]) -> None:
    """All types, as JSON and as binary data, mixed in one answer."""
    wanted = [
        InferRequestedOutput(f"y{i}", binary_data=binary) for i, (_, binary) in enumerate(outputs)
    ]
    rendered = answered([one for one, _ in outputs], wanted)
    result = InferResult.from_response_body(
        rendered.header + rendered.binary, header_length=len(rendered.header)
    )
    assert result.get_response()["model_version"] == "3"
    for place, ((datatype, array), binary) in enumerate(outputs):
        found = result.as_numpy(f"y{place}")
        assert found.shape == array.shape
        if datatype == "BYTES" and not binary:
            array = np.vectorize(bytes.decode, otypes=[object])(array)
        assert (found == array).all()


def asking(*wanted: InferRequestedOutput, **more: Any) -> Asked:
    given = [given_input("x", "FP32", np.zeros([1], "f4"), binary=True)]
    body, length = InferenceServerClient.generate_request_body(given, outputs=wanted, **more)
    return parse(body, length)


def answered(outputs: list[tuple[Any, Any]], wanted: list[InferRequestedOutput]) -> Rendered:
    results = [
        Tensor(f"y{place}", datatype, list(array.shape), packed(datatype, array))
        for place, (datatype, array) in enumerate(outputs)
    ]
    return render(Inferred(TensorResult(results), "m", 3, 0.1, 1), asking(*wanted))


def test_without_named_outputs_all_are_as_the_request_says() -> None:
    """tritonclient asks for binary data then; a request that says nothing gets JSON."""
    results = [Tensor("y", "INT8", [2], b"\1\2")]
    inferred = Inferred(TensorResult(results), "m", 1, 0.1, 1)
    assert render(inferred, asking()).binary == b"\1\2"
    plain = parse(b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}')
    told = render(inferred, plain)
    assert (json.loads(told.header), told.binary) == (
        {
            "model_name": "m",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "INT8", "shape": [2], "data": [1, 2]}],
        },
        b"",
    )


def test_the_largest_elements() -> None:
    """Triton's classification: each row's, the largest first, equal ones in their order."""
    array = np.array([[0.5, 2, 0.5, -1], [1, 1, float("nan"), 3]], "f4")
    wanted = [InferRequestedOutput("y0", class_count=3)]
    rendered = answered([("FP32", array)], wanted)
    result = InferResult.from_response_body(
        rendered.header + rendered.binary, header_length=len(rendered.header)
    )
    assert result.as_numpy("y0").tolist() == [
        [b"2.000000:1", b"0.500000:0", b"0.500000:2"],
        [b"3.000000:3", b"1.000000:0", b"1.000000:1"],
    ]
    flat = answered([("INT32", np.array([4, 7], "<i4"))], wanted)
    assert flat.binary == texts.packed([b"7:1", b"4:0"])


@pytest.mark.parametrize(
    ("priority", "meaning"),
    [(0, "normal"), (1, "critical"), (2, "normal"), (3, "batch"), (9, "batch"), ("batch", "batch")],
)
def test_priority_and_timeout(priority: Any, meaning: str) -> None:
    """Triton's numbers, 1 is the most urgent; its time-outs are microseconds."""
    asked = asking(priority=priority, timeout=2_500_000)
    assert (asked.priority, asked.timeout) == (meaning, 2.5)
    assert asking(timeout=0).timeout is asking().timeout is None


X = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
BIG = {"name": "x", "shape": [1 << 30], "datatype": "FP32"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [{**X, "name": ""}]}, "inputs[0].name"),
        ({"inputs": [{"shape": [1], "datatype": "FP32", "data": [1]}]}, "inputs[0].name"),
        ({"inputs": [X, {**X, "name": "z", "shape": [-1]}]}, "inputs[1].shape[0]"),
        ({"inputs": [{**X, "shape": [2.0]}]}, "inputs[0].shape[0]"),
        ({"inputs": [{**X, "shape": [2**63]}]}, "inputs[0].shape[0]"),
        ({"inputs": [{**X, "shape": [1] * 65}]}, "inputs[0].shape"),
        ({"inputs": [{**X, "shape": [3]}]}, "inputs[0].data"),
        ({"inputs": [{**X, "datatype": "BF16"}]}, "inputs[0].datatype"),
        ({"inputs": [{**X, "datatype": "fp32"}]}, "inputs[0].datatype"),
        ({"inputs": [{**X, "data": 5}]}, "inputs[0].data"),
        ({"inputs": [{**X, "data": None}]}, "inputs[0].data"),
        ({"inputs": [{**X, "data": "aGVsbG8="}]}, "inputs[0].data"),
        ({"inputs": [BIG]}, "inputs[0].data"),
        ({"inputs": [{**BIG, "data": [1]}]}, "inputs[0].data"),
        ({"inputs": [{**X, "contents": {}}]}, "inputs[0].contents"),
        ({"inputs": [X, X]}, "inputs[1].name"),
        ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "outputs[1].name"),
        ({"inputs": [X], "outputs": ["y"]}, "outputs[0]"),
        ({"inputs": [X], "output": []}, "output"),
        ({"inputs": [X], "id": 7}, "id"),
        ({"inputs": [X], "parameters": {"priority": -1}}, "parameters.priority"),
        ({"inputs": [X], "parameters": {"priority": "soon"}}, "parameters.priority"),
        ({"inputs": [X], "parameters": {"timeout": 1.5}}, "parameters.timeout"),
        ({"inputs": [X], "parameters": {"sequence_id": 7}}, "parameters.sequence_id"),
        (
            {"inputs": [{**X, "parameters": {"binary_data_size": -8}}]},
            "inputs[0].parameters.binary_data_size",
        ),
        ({"inputs": [{**X, "parameters": {"binary_data_size": 8}}]}, "inputs[0].data"),
        (
            {"inputs": [{**BIG, "parameters": {"binary_data_size": 1 << 32}}]},
            "inputs[0].parameters.binary_data_size",
        ),
        (
            {"inputs": [{**BIG, "parameters": {"shared_memory_region": "r"}}]},
            "inputs[0].parameters.shared_memory_region",
        ),
    ],
    ids=lambda value: json.dumps(value)[:70],
)
def test_wrong_requests(body: Any, param: str) -> None:
    """Each mistake is refused by its place."""
    with pytest.raises(InvalidRequest) as refusal:
        parse(json.dumps(body).encode())
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("sizes", "rest"),
    [([8], b""), ([8], b"1234567"), ([8], b"123456789"), ([7], b"1234567"), ([0], b"")],
)
def test_wrong_sizes_of_binary_data(sizes: list[int], rest: bytes) -> None:
    """Too little, too much, and not what the shape takes."""
    inputs = [{**BIG, "shape": [2], "parameters": {"binary_data_size": size}} for size in sizes]
    header = json.dumps({"inputs": inputs}).encode()
    with pytest.raises(InvalidRequest):
        parse(header + rest, len(header))
    whole = json.dumps({"inputs": [X]}).encode()
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        parse(whole, len(whole) + 1)


def test_what_has_to_be_looked_at() -> None:
    """JSON and texts; numbers that come as binary data are only copied."""
    for datatype, binary in (("FP32", True), ("FP32", False), ("BYTES", True)):
        array = (
            np.full([1000], b"abcdefgh", object) if datatype == "BYTES" else np.zeros([1000], "f4")
        )
        one = given_input("x", datatype, array, binary)
        body, length = InferenceServerClient.generate_request_body([one])
        assert effort(body, length) == (length if binary and datatype == "FP32" else len(body))


def test_a_bool_is_a_byte_of_0_or_1() -> None:
    header = json.dumps(
        {"inputs": [{**X, "datatype": "BOOL", "data": None, "parameters": {"binary_data_size": 2}}]}
    ).encode()
    with pytest.raises(InvalidRequest, match="0 or 1"):
        parse(header + b"\1\2", len(header))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_nan_in_json(value: str) -> None:
    """tritonclient writes it into JSON, where it is none; the refusal says what to do."""
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [%s]}]}'
    with pytest.raises(InvalidRequest, match="not valid JSON") as refusal:
        parse(body % value.encode())
    assert "binary" in (refusal.value.hint or "")


@pytest.mark.parametrize("raw", [b"[" * 1_000_000, b'{"inputs":' * 200_000, b"", b"\xff", b"null"])
def test_what_is_no_request_at_all(raw: bytes) -> None:
    """Nesting without end, other encodings, nothing."""
    with pytest.raises(InvalidRequest):
        parse(raw)


BODY, LENGTH = InferenceServerClient.generate_request_body(
    [
        given_input("a", "FP32", np.array([[1, 2.5]], "f4"), binary=False),
        given_input("b", "INT64", np.array([3, 4], "i8"), binary=True),
        given_input("c", "BYTES", np.array([b"xy", b""], object), binary=True),
        given_input("d", "BYTES", np.array([b"xy"], object), binary=False),
    ],
    outputs=[InferRequestedOutput("y", class_count=2)],
    request_id="1",
    priority=1,
)


@given(st.data())
def test_a_damaged_request_is_refused_or_whole(data: st.DataObject) -> None:
    """Bytes changed, cut out and put in: no other error, and no tensor of another size."""
    raw = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    length = data.draw(st.none() | st.just(LENGTH) | st.integers(0, len(raw) + 2))
    try:
        asked = parse(bytes(raw), length)
    except InvalidRequest:
        return
    for tensor in asked.work.inputs:
        count = np.prod(tensor.shape)
        if tensor.datatype == "BYTES":
            assert sum(1 for _ in texts.elements(tensor.data, "x")) == count
        else:
            assert len(tensor.data) == count * DTYPES[tensor.datatype].itemsize
