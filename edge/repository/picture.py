"""The block `picture:` of a manifest: how pictures become its input, and what its output means.

Words only: the ONNX worker reads pictures by it, the daemon what comes after (`then`).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.config.section import Name

Resize = Literal["stretch", "crop", "letterbox", "fit", "line"]
"""stretch: to the size, whatever becomes of the proportions. crop: the middle of the picture.
letterbox: all of it in its proportions, in the middle, with bars. fit: as large as fits into the
size in its proportions, for models whose height and width are free. line: of that height in its
proportions, from the left, with a bar on the right; one that is too long is squeezed."""

DetectorFormat = Literal["yolov5", "yolov8", "end2end", "db"]
"""yolov5: [1, N, 5 + classes], box, objectness, classes (v5, v7). yolov8: [1, 4 + classes, N], box,
classes (v8, v9, v11, v12). Boxes of both are middle, width and height in pixels of the input.
end2end: [1, N, 6], left, top, right, bottom, score, class, overlaps taken out already (v10 and
exports with `nms`). db: [1, 1, height, width], how likely a pixel belongs to a text."""

Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Side = Annotated[int, Meta(ge=1, le=8192)]
Share = Annotated[float, Meta(ge=0, le=1)]


class PictureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value of the input is (pixel · scale - mean) / std, with pixels of 0 to 255.

    size: height and width; None for those of the model's input. widest: where lines may be longer
    than the size's width, up to which. multiple: of which `fit` makes both sides. crop_pct: part of
    the shorter side that `crop` keeps. fill: the bars' pixels. labels, characters: a file in the
    model's folder with one in a line, or labels themselves; None for what the model file says.
    iou: overlap above which the less sure of two boxes of a class is dropped. most: detections
    at most. binarize, expand: of `db`, the score above which a pixel is text, and how much larger
    than what the pixels show a text is. then: the model that looks at what was detected.
    """

    size: tuple[Side, Side] | None = None
    resize: Resize | None = None
    widest: Side | None = None
    multiple: Annotated[int, Meta(ge=1, le=256)] = 32
    crop_pct: Annotated[float, Meta(gt=0, le=1)] = 1.0
    fill: Annotated[int, Meta(ge=0, le=255)] | None = None
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] | None = None
    scale: Number = 1 / 255
    mean: list[Number] = []
    std: list[Number] = []
    labels: str | list[str] | None = None
    softmax: bool = False
    top_k: Annotated[int, Meta(ge=1, le=1000)] = 5
    threshold: Share | None = None
    format: DetectorFormat | None = None
    iou: Share = 0.45
    most: Annotated[int, Meta(ge=1, le=1000)] = 300
    binarize: Share = 0.3
    expand: Annotated[float, Meta(ge=0, le=10)] = 1.6
    characters: str | None = None
    then: Name | None = None

    def __post_init__(self) -> None:
        channels = 1 if self.color == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, channels):
                raise ValueError(f"{name} has to have 1 or {channels} numbers")
        if any(value <= 0 for value in self.std):
            raise ValueError("std has to be above 0")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise ValueError("scale, mean and std have to be finite")
