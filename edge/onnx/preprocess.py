"""Pictures to a model's input, by the declarative block of its manifest.

A `Preprocessor` is made once for a version of a model and has no state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from edge.errors import BadModelFile
from edge.onnx import pictures, placing
from edge.onnx.pictures import Picture
from edge.onnx.placing import Placing, Size
from edge.repository.picture import PictureSettings, Resize
from edge.tensors import TensorFacts

NUMBERS: dict[str, Any] = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}
"""What an input for pictures may be made of."""

BARS = {"letterbox": 114, "line": 127}
"""What bars are filled with: what YOLO models are trained with; the middle of the range, which
the usual normalisation of readers makes zero of."""

LINE_STEP = 64
"""Of the widths of lines, in pixels: only lines of one width are computed together, so that what
comes of a line does not depend on its company."""


@dataclass(frozen=True)
class Entry:
    """A model's input for pictures. height, width: None where they are free."""

    name: str
    channels_last: bool
    channels: int
    height: int | None
    width: int | None
    dtype: Any


class Preprocessor:
    """settings: the manifest's block. resize: what goes where it says none; widest: likewise.

    Raises `BadModelFile` where the block and the model's input do not go together.
    """

    def __init__(
        self,
        settings: PictureSettings,
        inputs: Sequence[TensorFacts],
        resize: Resize,
        widest: int | None,
    ) -> None:
        self.settings = settings
        self.entry = _entry(settings, inputs)
        self.resize: Resize = settings.resize or resize
        self.size = self._size()
        self.widest = self._widest(widest)
        self._bar = BARS.get(self.resize, 0) if settings.fill is None else settings.fill
        self._factors, self._offsets = self._normalisation()

    def place(self, size: Size) -> Placing:
        """Where a picture of that size goes."""
        if self.resize == "crop":
            return placing.crop(size, self.size, self.settings.crop_pct)
        if self.resize == "letterbox":
            return placing.letterbox(size, self.size)
        if self.resize == "fit":
            return placing.fit(size, self.size, self.settings.multiple)
        if self.resize == "line":
            return placing.line(size, self.size, self.widest, LINE_STEP)
        return placing.stretch(size, self.size)

    def least(self, width: int, height: int) -> Size:
        """Width and height to which a picture of that size may be made smaller for this input."""
        x, y = self.place((width, height)).scale
        return math.ceil(width * x), math.ceil(height * y)

    def row(self, picture: Picture, place: Placing) -> np.ndarray[Any, Any]:
        """The picture as one row of the input, [1, …]."""
        image = picture.pixels
        x, y = image.width / picture.width, image.height / picture.height
        left, top, right, bottom = place.shown
        # The sums of fractions may end a hair outside of the picture.
        source = (
            max(0.0, left * x),
            max(0.0, top * y),
            min(float(image.width), right * x),
            min(float(image.height), bottom * y),
        )
        pixels = pictures.resized(image, place.inner, source)
        if place.inner != place.canvas:
            canvas = Image.new("RGB", place.canvas, (self._bar,) * 3)
            canvas.paste(pixels, place.at)
            pixels = canvas
        return self._numbers(pixels.convert("L") if self.entry.channels == 1 else pixels)

    def _numbers(self, pixels: Image.Image) -> np.ndarray[Any, Any]:
        """(pixel · scale - mean) / std, laid out as the model's input is."""
        entry = self.entry
        height, width = pixels.height, pixels.width
        planes = list(pixels.split())
        if self.settings.color == "bgr":
            planes.reverse()
        last = entry.channels_last
        shape = (1, height, width, entry.channels) if last else (1, entry.channels, height, width)
        if entry.dtype is np.uint8:
            raw = np.stack([np.asarray(plane) for plane in planes], axis=2 if last else 0)
            return raw.reshape(shape)
        row = np.empty(shape, np.float32)
        for channel, plane in enumerate(planes):
            target = row[0, :, :, channel] if last else row[0, channel]
            np.multiply(np.asarray(plane), self._factors[channel], out=target)
            if self._offsets[channel]:
                target += self._offsets[channel]
        return row.astype(entry.dtype, copy=False)

    def _size(self) -> Size:
        """Width and height. A free side of the input needs one in the manifest."""
        entry, given = self.entry, self.settings.size
        height, width = given or (entry.height, entry.width)
        if height is None or width is None:
            raise BadModelFile(
                f"the input {entry.name} has free sides: model.yaml has to say picture.size"
            )
        if entry.height not in (None, height):
            raise BadModelFile(f"picture.size: the input {entry.name} is {entry.height} high")
        if entry.width not in (None, width):
            raise BadModelFile(f"picture.size: the input {entry.name} is {entry.width} wide")
        if self.resize == "fit" and None not in (entry.height, entry.width):
            raise BadModelFile("picture.resize: `fit` needs an input whose sides are free")
        if self.resize == "fit" and min(height, width) < self.settings.multiple:
            raise BadModelFile("picture.size: smaller than picture.multiple")
        return width, height

    def _widest(self, widest: int | None) -> int:
        if self.entry.width is not None or self.resize != "line":
            return self.size[0]
        return max(self.size[0], self.settings.widest or widest or 0)

    def _normalisation(self) -> tuple[list[np.float32], list[np.float32]]:
        """Factor and offset for each channel, in the order of the input's."""
        settings, channels = self.settings, self.entry.channels
        if self.entry.dtype is np.uint8 and (settings.mean or settings.std):
            raise BadModelFile(
                f"picture.mean and std: the input {self.entry.name} takes pixels as they are"
            )
        mean, std = settings.mean or [0.0], settings.std or [1.0]
        mean, std = (v * channels if len(v) == 1 else v for v in (mean, std))
        factors = [np.float32(settings.scale / s) for s in std]
        return factors, [np.float32(-m / s) for m, s in zip(mean, std, strict=True)]


def _entry(settings: PictureSettings, inputs: Sequence[TensorFacts]) -> Entry:
    """The only input, checked."""
    if len(inputs) != 1:
        names = ", ".join(facts.name for facts in inputs)
        raise BadModelFile(f"a model for pictures has one input, this one has {names}")
    facts = inputs[0]
    if len(facts.shape) != 4 or facts.datatype not in NUMBERS:
        raise BadModelFile(
            f"the input {facts.name} is {facts.datatype} {facts.shape}; a picture needs four "
            f"dimensions of {', '.join(NUMBERS)}"
        )
    channels = 1 if settings.color == "gray" else 3
    _, second, third, fourth = facts.shape
    last = settings.layout == "nhwc" or (
        settings.layout is None and second != channels and fourth == channels
    )
    height, width, depth = (second, third, fourth) if last else (third, fourth, second)
    if depth not in (-1, channels):
        raise BadModelFile(
            f"the input {facts.name} is {facts.shape}: no {channels} channels "
            f"(picture.color: {settings.color}) in that layout"
        )
    return Entry(
        facts.name,
        last,
        channels,
        height if height > 0 else None,
        width if width > 0 else None,
        NUMBERS[facts.datatype],
    )
