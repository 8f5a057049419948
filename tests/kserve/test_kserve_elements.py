"""Elements of tensors between JSON and binary data, checked against numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge.errors import InvalidRequest
from edge.kserve import numbers, texts
from edge.kserve.numbers import DTYPES
from edge.tensors import SIZES, Tensor

NUMBERS = sorted(SIZES)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=2),
    max_leaves=12,
)


@pytest.fixture(autouse=True, scope="module")
def small_slices() -> Iterator[None]:
    """So that every few elements are cut, as those of megabytes are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "SLICE", 5)
        patch.setattr(numbers, "SLICE_ELEMENTS", 3)
        yield


@st.composite
def numeric(draw: st.DrawFn) -> tuple[Any, Any]:
    datatype = draw(st.sampled_from(NUMBERS))
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    elements = arrays.from_dtype(DTYPES[datatype], **finite)
    return datatype, draw(arrays.arrays(DTYPES[datatype], draw(SHAPES), elements=elements))


def spelled(values: Any, indent: int | None = None) -> bytes:
    return json.dumps(values, indent=indent, ensure_ascii=False).encode()


@given(numeric(), st.booleans(), st.sampled_from([None, 0, 1]))
def test_numbers_come_out_of_json_as_numpy_has_them(
    tensor: tuple[Any, Any], nested: bool, indent: int | None
) -> None:
    """Flat and nested, of every type and shape, to the last bit."""
    datatype, array = tensor
    values = array.tolist() if nested and array.ndim else array.ravel().tolist()
    found = numbers.from_json(spelled(values, indent), datatype, list(array.shape), "x")
    assert found == array.tobytes()


@given(numeric())
def test_numbers_go_into_json_and_come_back(tensor: tuple[Any, Any]) -> None:
    """What is told as JSON is what was computed."""
    datatype, array = tensor
    told = numbers.to_json(Tensor("y", datatype, list(array.shape), array.tobytes()))
    assert numbers.from_json(told, datatype, list(array.shape), "x") == array.tobytes()
    assert len(json.loads(told)) == array.size


def fits(values: Any, shape: list[int]) -> bool:
    """Whether it is nested as the shape says."""
    if not shape:
        return not isinstance(values, list)
    return (
        isinstance(values, list)
        and len(values) == shape[0]
        and all(fits(one, shape[1:]) for one in values)
    )


@given(
    st.lists(JSON_VALUES, max_size=4),
    st.sampled_from([*NUMBERS, "BYTES"]),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_nothing_but_the_shape_is_taken(values: Any, datatype: Any, shape: list[int]) -> None:
    """Any JSON array: it is refused by its name, or it is flat or nested as the shape says."""
    data = spelled(values)
    try:
        if datatype == "BYTES":
            found = sum(1 for _ in texts.elements(texts.from_json(data, shape, "x"), "x"))
        else:
            found = len(numbers.from_json(data, datatype, shape, "x")) // SIZES[datatype]
    except InvalidRequest as error:
        found, named = None, error.param
    else:
        named = "x"
    assert named == "x"
    assert found in (None, math.prod(shape))
    assert found is None or fits(values, [found]) or fits(values, shape)


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ([[1, 0], [1]], [2, 2]),
        ([[1, 0], [1, 1, 0]], [2, 2]),
        ([[1, 0, 1], [0]], [2, 2]),
        ([1, [0]], [2]),
        ([[[1]], [0]], [2, 1]),
        ([[1], []], [2, 1]),
        ([[], [1]], [2, 1]),
        ([[], []], [2, 1]),
        ([[1], [1]], [2, 0]),
        ([[1, 0]], [2]),
        ([[1, 0]], [2, 1]),
        ([], [1]),
        ([1], [0]),
        ([1], [0, 2**62]),
        ([1, 0, 1], [2]),
        ([1], [2**62, 2**62, 2**62]),
        ([], [2**62]),
        ([], []),
    ],
)
def test_ragged_and_miscounted_numbers(datatype: Any, values: Any, shape: list[int]) -> None:
    """Whatever the shape promises, nothing is made that is larger than what came."""
    if datatype == "BOOL":
        values = json.loads(json.dumps(values).replace("1", "true").replace("0", "false"))
    with pytest.raises(InvalidRequest, match="shape") as refusal:
        numbers.from_json(spelled(values), datatype, shape, "inputs[0].data")
    assert refusal.value.param == "inputs[0].data"


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT8", [128]),
        ("INT8", [-129]),
        ("UINT8", [-1]),
        ("UINT64", [2**64]),
        ("INT64", [-(2**63) - 1]),
        ("INT64", [10**40]),
        ("FP16", [65520]),
        ("FP32", [3.5e38]),
    ],
)
def test_numbers_that_do_not_fit(datatype: Any, values: list[float]) -> None:
    """They are refused, and never wrapped around or made infinite."""
    with pytest.raises(InvalidRequest, match=f"does not fit into {datatype}"):
        numbers.from_json(spelled(values), datatype, [1], "x")


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("INT32", "[1.5]", "a fraction"),
        ("INT32", "[1e3]", "a fraction"),
        ("INT32", "[true]", "true"),
        ("FP32", '["1"]', "a text"),
        ("FP32", "[null]", "null"),
        ("FP32", '[{"a": 1}]', "an object"),
        ("BOOL", "[1]", "a number"),
        ("BOOL", '["true"]', "a text"),
    ],
)
def test_other_things_than_its_elements(datatype: Any, data: str, words: str) -> None:
    """The refusal says what was found."""
    with pytest.raises(InvalidRequest, match=f"`x`: {words} is no element of {datatype}"):
        numbers.from_json(data.encode(), datatype, [1], "x")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=9))
def test_texts_go_both_ways(contents: list[str]) -> None:
    """With any characters in them, those of JSON too."""
    found = texts.from_json(spelled(contents), [len(contents)], "x")
    assert [one.decode() for one in texts.elements(found, "x")] == contents
    assert json.loads(texts.to_json(Tensor("y", "BYTES", [len(contents)], found))) == contents


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ([["a"], ["b", "c"]], [2, 1]),
        ([["a", "b"]], [2]),
        ([["a"]], [1, 2]),
        (["a"], [2**62]),
        ([], [1]),
        ([["a"]], []),
        ([1], [1]),
        ([None], [1]),
    ],
)
def test_ragged_and_miscounted_texts(values: Any, shape: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="shape"):
        texts.from_json(spelled(values), shape, "x")


@pytest.mark.parametrize("data", [b'["\xff"]', b'["\\ud800"]', b'["\xed\xa0\x80"]'])
def test_texts_that_are_not_utf8(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        texts.from_json(data, [1], "x")


@given(st.lists(st.binary(max_size=5), max_size=6), st.binary(max_size=6), st.integers(0, 7))
def test_binary_texts_are_counted(contents: list[bytes], rest: bytes, count: int) -> None:
    """As many as the shape says, and the last one ends where the data ends."""
    data = texts.packed(contents)
    assert list(texts.elements(data, "x")) == contents
    try:
        texts.check_binary(data + rest, [count], "x")
    except InvalidRequest:
        assert rest or count != len(contents)
    else:
        assert sum(1 for _ in texts.elements(data + rest, "x")) == count


def test_a_text_that_ends_behind_the_data() -> None:
    """Four gigabytes that a length promises are not waited for."""
    with pytest.raises(InvalidRequest, match="ends behind"):
        texts.check_binary(b"\xff\xff\xff\xff...", [1], "x")
    with pytest.raises(InvalidRequest, match="ends behind"):
        texts.check_binary(b"\0\0", [1], "x")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_what_json_has_no_numbers_for(value: float, datatype: Any) -> None:
    """An answer in JSON never says null, or something else, for NaN."""
    data = np.array([1, value], DTYPES[datatype]).tobytes()
    with pytest.raises(InvalidRequest, match="`y` has NaN") as refusal:
        numbers.to_json(Tensor("y", datatype, [2], data))
    assert "binary_data" in (refusal.value.hint or "")
