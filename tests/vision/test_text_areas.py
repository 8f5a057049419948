"""Connected text areas, against a flood fill written out plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.onnx.areas import reading_order, text_areas

Array = np.ndarray[Any, Any]


def flooded(mask: Array) -> list[list[tuple[int, int]]]:
    """The pixels (row, column) of each area of eight neighbours."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    areas = []
    while left:
        area, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            area.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        areas.append(area)
    return areas


@settings(max_examples=150)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_areas(height: int, width: int, density: float, seed: int) -> None:
    """For any map: as many areas, with the same edges and the same means."""
    draw = np.random.default_rng(seed)
    likely = np.where(draw.uniform(size=(height, width)) < density, 0.9, 0.1)
    likely += draw.uniform(-0.05, 0.05, likely.shape)
    found = text_areas(likely.astype(np.float32), 0.5, 0.0, 0.0, 10_000)
    wanted = set()
    for area in flooded(likely > 0.5):
        (top, left), (bottom, right) = np.min(area, axis=0), np.max(area, axis=0) + 1
        if min(right - left, bottom - top) >= 3:
            mean = float(np.mean([likely[place] for place in area]))
            wanted.add((left, top, right, bottom, round(mean, 4)))
    got = {
        (*box.tolist(), round(float(score), 4))
        for box, score in zip(found.boxes, found.scores, strict=True)
    }
    assert len(got) == len(found.scores)
    assert {place[:4] for place in got} == {tuple(map(float, place[:4])) for place in wanted}
    assert sorted(place[4] for place in got) == pytest.approx(
        sorted(place[4] for place in wanted), abs=1e-3
    )


def test_a_box_grows() -> None:
    """By area · expand / perimeter, in all directions: 40 by 10 and 1.6 make 6.4."""
    likely = np.zeros((60, 100), np.float32)
    likely[20:30, 30:70] = 0.8
    found = text_areas(likely, 0.3, 0.5, 1.6, 300)
    assert found.boxes[0].tolist() == pytest.approx([23.6, 13.6, 76.4, 36.4])
    assert found.scores[0] == pytest.approx(0.8, abs=1e-5)


def test_what_is_unsure_or_too_small_is_no_text() -> None:
    """Also NaN, which a broken model may say."""
    likely = np.zeros((60, 100), np.float32)
    likely[5:15, 5:40] = 0.4
    likely[30:32, 5:40] = 0.9
    assert len(text_areas(likely, 0.3, 0.5, 1.6, 300).scores) == 0
    assert len(text_areas(np.full((8, 8), np.nan, np.float32), 0.3, 0.5, 1.6, 300).scores) == 0


def test_the_surest_are_kept() -> None:
    """Of more areas than may be, in the order of reading."""
    likely = np.zeros((50, 50), np.float32)
    for score, (top, left) in zip((0.7, 0.9, 0.8), ((0, 0), (20, 0), (40, 40)), strict=True):
        likely[top : top + 6, left : left + 6] = score
    found = text_areas(likely, 0.3, 0.5, 0.0, 2)
    assert found.boxes[:, :2].tolist() == [[0, 20], [40, 40]]


def test_noise() -> None:
    """A chequered map, every second pixel of which is a run of its own, is one area."""
    likely = np.indices((544, 960)).sum(axis=0) % 2
    found = text_areas(likely.astype(np.float32), 0.3, 0.5, 0.0, 300)
    assert found.boxes.tolist() == [[0, 0, 960, 544]]


def test_the_order_of_reading() -> None:
    """Lines from the top, each from the left, also where they stand a little crooked."""
    found = np.array(
        [
            [500.0, 242, 560, 287],
            [57, 333, 286, 357],
            [60, 243, 245, 272],
            [300, 238, 400, 270],
            [37, 47, 252, 93],
        ]
    )
    assert reading_order(found).tolist() == [4, 2, 3, 0, 1]
