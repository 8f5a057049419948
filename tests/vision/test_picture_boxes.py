"""Boxes out of detectors' outputs, against the definition written out plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.onnx import boxes
from edge.onnx.boxes import Found
from edge.onnx.placing import Placing

Array = np.ndarray[Any, Any]


def overlap(one: Array, other: Array) -> float:
    """Intersection over union."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(wide * high / (sum(areas) - wide * high))


def plainly(candidates: Array, numbers: list[int], iou: float, most: int) -> list[int]:
    kept: list[int] = []
    for index, box in enumerate(candidates):
        rivals = [k for k in kept if numbers[k] == numbers[index]]
        if len(kept) < most and all(overlap(box, candidates[k]) <= iou for k in rivals):
            kept.append(index)
    return kept


@given(st.integers(0, 60), st.integers(1, 3), st.floats(0.05, 0.95), st.integers(1, 40), st.data())
def test_suppression(count: int, classes: int, iou: float, most: int, data: Any) -> None:
    """Of boxes of one class that overlap by more than `iou` the surest stays."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    corner = draw.uniform(0, 60, (count, 2))
    found = np.concatenate([corner, corner + draw.uniform(1, 40, (count, 2))], axis=1)
    numbers = draw.integers(0, classes, count)
    kept = boxes.suppressed(found, numbers, iou, most)
    assert kept.tolist() == plainly(found, numbers.tolist(), iou, most)


def outputs(draw: np.random.Generator, count: int, classes: int) -> tuple[Array, Array, Array]:
    """Middles and sizes, objectness, and scores of classes."""
    middles = np.concatenate(
        [draw.uniform(20, 300, (count, 2)), draw.uniform(10, 80, (count, 2))], axis=1
    )
    return middles, draw.uniform(0, 1, (count, 1)), draw.uniform(0, 1, (count, classes))


def test_layouts_say_the_same() -> None:
    """v5 with an objectness of its own, v8 with the product of both."""
    middles, sure, scores = outputs(np.random.default_rng(1), 400, 5)
    five = np.concatenate([middles, sure, scores], axis=1)
    eight = np.concatenate([middles, sure * scores], axis=1).T
    one = boxes.yolov5(five, 0.3, 0.45, 300)
    other = boxes.yolov8(eight, 0.3, 0.45, 300)
    assert len(one.scores) > 50
    assert np.array_equal(one.boxes, other.boxes)
    assert np.allclose(one.scores, other.scores)
    assert np.array_equal(one.numbers, other.numbers)
    assert (np.diff(one.scores) <= 0).all()
    assert one.scores.min() >= 0.3


def test_one_box_of_a_class() -> None:
    """Middle, width and height become edges; the class is the surest one."""
    output = np.array([[100.0, 50.0, 20.0, 10.0, 0.1, 0.9, 0.3]]).T
    found = boxes.yolov8(output, 0.25, 0.45, 300)
    assert found.boxes.tolist() == [[90, 45, 110, 55]]
    assert (found.scores.tolist(), found.numbers.tolist()) == ([0.9], [1])


def test_a_model_that_takes_overlaps_out_itself() -> None:
    """Its rows are sorted and cut; the empty rows behind them fall below the threshold."""
    rows = np.zeros((300, 6))
    rows[0] = [1, 2, 30, 40, 0.5, 2]
    rows[1] = [1, 2, 31, 41, 0.9, 2]
    found = boxes.end2end(rows, 0.25, 300)
    assert found.boxes.tolist() == [[1, 2, 31, 41], [1, 2, 30, 40]]
    assert found.numbers.tolist() == [2, 2]
    assert len(boxes.end2end(rows, 0.25, 1).scores) == 1


def test_numbers_that_are_none() -> None:
    """A broken model's NaN and infinite boxes are nothing that was seen."""
    middles, sure, scores = outputs(np.random.default_rng(2), 6, 3)
    output = np.concatenate([middles, sure, scores], axis=1)
    output[0, 4] = np.nan
    output[1, 5:] = np.nan
    output[2, 0] = np.nan
    output[3, 2] = np.inf
    for found in (boxes.yolov5(output, 0.0, 1.0, 300), boxes.yolov8(output.T, 0.0, 1.0, 300)):
        assert np.isfinite(found.boxes).all()
        assert np.isfinite(found.scores).all()
        assert 2 <= len(found.scores) <= 4
    ended = np.array(
        [[0, 0, np.nan, 9, 0.9, 0], [0, 0, 9, 9, np.nan, 0], [0, 0, 9, 9, 0.9, np.nan]]
    )
    assert len(boxes.end2end(ended, 0.25, 300).scores) == 0


def test_thousands_of_candidates() -> None:
    """Of a wall of equal boxes only the surest are compared, and one of them stays."""
    output = np.tile(np.array([[50.0, 50.0, 20.0, 20.0, 0.9]]), (100_000, 1)).T
    assert len(boxes.yolov8(output, 0.0, 0.45, 300).scores) == 1


def test_boxes_are_put_back_on_the_picture() -> None:
    """The letterbox is undone, what is outside is cut off, and what is all outside is dropped."""
    placing = Placing((0, 0, 1280, 720), (640, 360), (0, 140), (640, 640))
    inner = np.array([[10.0, 150, 110, 200], [-20, 130, 50, 160], [0, 0, 640, 139], [5, 5, 5, 5]])
    found = boxes.on_picture(Found(inner, np.ones(4), np.arange(4)), placing, 1280, 720)
    assert found.boxes.tolist() == [[20, 20, 220, 120], [0, 0, 100, 40]]
    assert found.numbers.tolist() == [0, 1]
