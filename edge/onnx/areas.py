"""Text areas from a map of how likely each pixel belongs to a text (differentiable binarization).

After Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020):
the map is cut at a level, connected pixels are a text, and because the model was trained on
shrunken areas its box grows by area · expand / perimeter. Boxes are upright. Pure numpy: pixels
become runs of a row, and runs are joined, so that noise of any kind takes a bounded time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.onnx.boxes import Floats, Found, Integers

SMALLEST = 3
"""Pixels of the map; what is lower or narrower is noise."""


def text_areas(
    likely: Floats, binarize: float, threshold: float, expand: float, most: int
) -> Found:
    """likely: [height, width]. The areas whose pixels have a mean of at least `threshold`, in
    pixels of the map, in the order of reading."""
    rows, starts, ends = _runs(likely > binarize)
    if not len(rows):
        return _none()
    group = _groups(rows, starts, ends)
    sums = np.concatenate([[0.0], likely.ravel().cumsum(dtype=np.float64)])
    base = rows * likely.shape[1]
    weight = np.bincount(group, sums[base + ends] - sums[base + starts])
    pixels = np.bincount(group, (ends - starts).astype(np.float64))
    boxes = np.stack(
        [
            _least(group, starts),
            _least(group, rows),
            -_least(group, -ends),
            -_least(group, -rows) + 1,
        ],
        axis=1,
    ).astype(np.float64)
    scores = weight / pixels
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fine = (scores >= threshold) & (np.minimum(wide, high) >= SMALLEST)
    chosen = np.flatnonzero(fine)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")[:most]]
    grown = (wide * high * expand / (2 * (wide + high)))[chosen, None] * (-1, -1, 1, 1)
    boxes = boxes[chosen] + grown
    order = reading_order(boxes)
    numbers = np.zeros(len(order), dtype=np.int64)
    return Found(boxes[order], scores[chosen][order], numbers)


def reading_order(boxes: Floats) -> Integers:
    """Indices from the top line to the bottom one, from the left within a line. A box is in the
    line of the one above it where its middle is above that one's lower edge."""
    order = np.argsort(boxes[:, 1], kind="stable")
    lines: list[list[int]] = []
    for index in order:
        middle = (boxes[index, 1] + boxes[index, 3]) / 2
        if lines and middle < boxes[lines[-1][0], 3]:
            lines[-1].append(int(index))
        else:
            lines.append([int(index)])
    sorted_lines = (sorted(line, key=lambda index: boxes[index, 0]) for line in lines)
    return np.array([index for line in sorted_lines for index in line], dtype=np.int64)


def _none() -> Found:
    return Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))


def _runs(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[Integers, Integers, Integers]:
    """Row, first and behind-the-last column of every run of set pixels, row by row."""
    framed = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    framed[:, 1:-1] = mask
    steps = np.diff(framed, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    return rows, starts, ends


def _groups(rows: Integers, starts: Integers, ends: Integers) -> Integers:
    """The number of the connected area (of eight neighbours) that each run belongs to, from 0."""
    upper, lower = _touching(rows, starts, ends)
    parent = np.arange(len(rows))
    while True:
        # Of two areas that touch, the root of one goes below that of the other; a root that all
        # its neighbours went below is a neighbour of theirs in the next round.
        roots_upper, roots_lower = parent[upper], parent[lower]
        apart = roots_upper != roots_lower
        if not apart.any():
            break
        upper, lower = upper[apart], lower[apart]
        small = np.minimum(roots_upper[apart], roots_lower[apart])
        large = np.maximum(roots_upper[apart], roots_lower[apart])
        np.minimum.at(parent, large, small)
        while not np.array_equal(flat := parent[parent], parent):
            parent = flat
    group: Integers = np.unique(parent, return_inverse=True)[1].reshape(-1)
    return group


def _touching(rows: Integers, starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
    """Pairs of runs, the one above and the one below, that touch, also at their corners."""
    wide = int(ends.max()) + 2
    first = np.searchsorted(rows * wide + ends, (rows - 1) * wide + starts)
    last = np.searchsorted(rows * wide + starts, (rows - 1) * wide + ends, side="right")
    counts = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + offsets, lower


def _least(group: Integers, values: Integers) -> Integers:
    least = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, group, values)
    return least
