"""Boxes out of the outputs of detectors, those of them that show different things, and where they
are in the picture.

Pure numpy. Boxes are [N, 4]: left, top, right, bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.onnx.placing import Placing

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]

MOST_CANDIDATES = 3000
"""The surest, among which overlaps are looked for; the time for that grows with their number."""


@dataclass(frozen=True)
class Found:
    """boxes: [N, 4] float. scores: [N]. numbers: of the classes, [N]. Surest first."""

    boxes: Floats
    scores: Floats
    numbers: Integers


def yolov5(output: Floats, threshold: float, iou: float, most: int) -> Found:
    """output: [N, 5 + classes]. The score is objectness times that of the class."""
    rows = output[output[:, 4] >= threshold]
    scores = rows[:, 5:] * rows[:, 4:5]
    return _best_classes(rows[:, :4], scores, threshold, iou, most)


def yolov8(output: Floats, threshold: float, iou: float, most: int) -> Found:
    """output: [4 + classes, N]."""
    sure = output[4:].max(axis=0) >= threshold
    rows = output[:, sure].T
    return _best_classes(rows[:, :4], rows[:, 4:], threshold, iou, most)


def end2end(output: Floats, threshold: float, most: int) -> Found:
    """output: [N, 6], overlaps taken out already."""
    rows = output[(output[:, 4] >= threshold) & np.isfinite(output).all(axis=1)]
    order = np.argsort(-rows[:, 4], kind="stable")[:most]
    rows = rows[order]
    return Found(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))


def _best_classes(
    middles: Floats, scores: Floats, threshold: float, iou: float, most: int
) -> Found:
    """The surest class of each box, and of the boxes those that do not show the same thing."""
    numbers = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), numbers]
    # The comparison is false for NaN.
    chosen = np.flatnonzero(best >= threshold)
    order = np.argsort(-best[chosen], kind="stable")[:MOST_CANDIDATES]
    chosen = chosen[order]
    middle, half = middles[chosen, :2], middles[chosen, 2:4] / 2
    boxes: Floats = np.concatenate([middle - half, middle + half], axis=1)
    chosen = chosen[fine := np.isfinite(boxes).all(axis=1)]
    boxes, best, numbers = boxes[fine], best[chosen], numbers[chosen]
    kept = suppressed(boxes, numbers, iou, most)
    return Found(boxes[kept], best[kept], numbers[kept])


def suppressed(boxes: Floats, numbers: Integers, iou: float, most: int) -> Integers:
    """Greedy non-maximum suppression within each class: indices of the boxes that stay.

    boxes: [N, 4], surest first. A box goes where its intersection with a surer one of its class is
    more than `iou` of their union.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left: npt.NDArray[np.intp] = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        first, left = left[0], left[1:]
        kept.append(int(first))
        over = np.minimum(boxes[first, 2:], boxes[left, 2:])
        over = (over - np.maximum(boxes[first, :2], boxes[left, :2])).clip(min=0)
        shared = over[:, 0] * over[:, 1]
        same = shared > iou * (areas[first] + areas[left] - shared)
        left = left[~(same & (numbers[left] == numbers[first]))]
    return np.array(kept, dtype=np.int64)


def on_picture(found: Found, placing: Placing, width: int, height: int) -> Found:
    """Boxes of the input put back on the picture and cut off at its edges; those of which less
    than a pixel is left, across or down, are dropped."""
    x, y = placing.scale
    left, top = placing.origin
    boxes = (found.boxes - (left, top, left, top)) / (x, y, x, y)
    boxes = boxes.clip(0, (width, height, width, height))
    there = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    return Found(boxes[there], found.scores[there], found.numbers[there])
