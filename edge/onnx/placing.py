"""Where a picture goes in a model's input, and back. Arithmetic only, no pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class Placing:
    """shown: the part of the picture that is put in, in its pixels. inner: the size it gets there.
    at: where its left top corner comes to lie. canvas: the size of the input."""

    shown: Box
    inner: Size
    at: Size
    canvas: Size

    @property
    def pixels(self) -> int:
        """Of the input."""
        return self.canvas[0] * self.canvas[1]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the input for one of the picture, across and down."""
        left, top, right, bottom = self.shown
        return self.inner[0] / (right - left), self.inner[1] / (bottom - top)

    @property
    def origin(self) -> tuple[float, float]:
        """Where the picture's left top corner lies in the input, which may be outside of it."""
        x, y = self.scale
        return self.at[0] - self.shown[0] * x, self.at[1] - self.shown[1] * y


def stretch(picture: Size, size: Size) -> Placing:
    return Placing((0, 0, *picture), size, (0, 0), size)


def crop(picture: Size, size: Size, share: float) -> Placing:
    """The middle. share: of the shorter side (in the size's proportions) that stays."""
    ratio = max(size[0] / picture[0], size[1] / picture[1]) / share
    wide, high = size[0] / ratio, size[1] / ratio
    left, top = (picture[0] - wide) / 2, (picture[1] - high) / 2
    return Placing((left, top, left + wide, top + high), size, (0, 0), size)


def letterbox(picture: Size, size: Size) -> Placing:
    """As large as it fits, in the middle, as YOLO models are trained: the odd pixel of the bars is
    at the right and at the bottom."""
    ratio = min(size[0] / picture[0], size[1] / picture[1])
    wide, high = (max(1, round(side * ratio)) for side in picture)
    at = (size[0] - wide) // 2, (size[1] - high) // 2
    return Placing((0, 0, *picture), (wide, high), at, size)


def fit(picture: Size, size: Size, multiple: int) -> Placing:
    """As large as it fits, each side rounded to a multiple, and no bars."""
    ratio = min(size[0] / picture[0], size[1] / picture[1])

    def rounded(side: int, most: int) -> int:
        steps = min(round(side * ratio / multiple), most // multiple)
        return multiple * max(1, steps)

    inner = rounded(picture[0], size[0]), rounded(picture[1], size[1])
    return Placing((0, 0, *picture), inner, (0, 0), inner)


def line(picture: Size, size: Size, widest: int, step: int) -> Placing:
    """Of the size's height, from the left. The input is as wide as the size, or as the line where
    that is longer, in steps; beyond `widest` a line is squeezed."""
    own = max(1, math.ceil(picture[0] * size[1] / picture[1]))
    width = size[0] if own <= size[0] else min(widest, math.ceil(own / step) * step)
    return Placing((0, 0, *picture), (min(own, width), size[1]), (0, 0), (width, size[1]))
