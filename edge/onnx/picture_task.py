"""Pictures as work: decoded, laid out as the model's input, and its output said in the words of the
picture. One class for what all such models share, and one for each kind of meaning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
from PIL import Image

from edge.errors import InvalidRequest
from edge.onnx import pictures
from edge.onnx.boxes import Floats
from edge.onnx.classify import Classifier
from edge.onnx.detect import Detector
from edge.onnx.draw import drawn
from edge.onnx.pictures import Picture
from edge.onnx.placing import Box, Placing, Size
from edge.onnx.preprocess import Preprocessor
from edge.onnx.read import Reader
from edge.onnx.task import Arrays, Model, Piece, Prepared
from edge.repository.picture import PictureSettings, Resize
from edge.tensors import Detection, Label, PictureWork, Sighting, Work

Kind = Literal["classify", "detect", "read"]

MOST_ROW_BYTES = 256 * 1024 * 1024
"""Of all regions of one picture, laid out as the model's input."""

PIXELS_OF_A_LENGTH = 200
"""In the batcher's measure, which is a token of a small text model: so a batch has 100,000 pixels,
or one row. More gain nothing on a CPU (each of 1 to 16 pictures of 320 by 320 took YOLOv8n 72 to
126 ms, each of 1 to 32 lines took PP-OCR's reader 85 to 114 ms), take 100 to 1,000 bytes for each
pixel while they are computed, and hold up what is urgent."""

WIDEST_LINE = 3200
"""Where a reader's manifest does not say: about 130 letters at the usual height of 48."""


class Meaning(Protocol):
    """What an output says. threshold: None for what the manifest says."""

    def labels(self, output: Floats, top_k: int, threshold: float | None) -> list[Label] | None:
        """output: of one row, without its first dimension. None where it is none of labels."""

    def detections(
        self, output: Floats, placing: Placing, size: Size, threshold: float | None
    ) -> list[Detection] | None:
        """size: width and height of the picture. None where the output is none of boxes."""


@dataclass
class _Look:
    """What `finish` needs. image: only where something is to be drawn into it."""

    work: PictureWork
    size: Size
    placings: list[Placing]
    image: Image.Image | None


class PictureTask:
    """Raises `BadModelFile` where manifest and model do not go together."""

    def __init__(self, kind: Kind, settings: PictureSettings, model: Model) -> None:
        self.settings = settings = _with_size(settings, model)
        self.kind = kind
        self.output = model.outputs[0].name
        self.meaning: Meaning
        usual: Resize = "crop"
        if kind == "classify":
            self.meaning = Classifier(settings, model)
        elif kind == "detect":
            self.meaning = Detector(settings, model)
            usual = "fit" if settings.format == "db" else "letterbox"
        else:
            self.meaning = Reader(settings, model)
            usual = "line"
        widest = WIDEST_LINE if kind == "read" else None
        self.preprocessor = Preprocessor(settings, model.inputs, usual, widest)

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        """A row for the picture, or for each of its regions; rows of one size can be joined."""
        if not isinstance(work, PictureWork):
            raise InvalidRequest(
                f"the model takes pictures (its task is {self.kind})", param="inputs"
            )
        _check(work)
        if work.regions is not None and self.kind == "detect":
            raise InvalidRequest("a detector looks at whole pictures", param="regions")
        whole = work.draw is not None or work.regions is not None
        picture = pictures.decode(work.data, None if whole else self.preprocessor.least)
        size = picture.width, picture.height
        parts: list[tuple[int, int, int, int]] = [(0, 0, *size)]
        if work.regions is not None:
            parts = [_inside(region.box, size) for region in work.regions]
        placings = [self.preprocessor.place((p[2] - p[0], p[3] - p[1])) for p in parts]
        entry = self.preprocessor.entry
        row_bytes = entry.channels * np.dtype(entry.dtype).itemsize
        if sum(p.pixels for p in placings) * row_bytes > MOST_ROW_BYTES:
            raise InvalidRequest("too many regions to look at", param="regions")
        rows = [
            self.preprocessor.row(
                picture if work.regions is None else _part(picture, part), placing
            )
            for part, placing in zip(parts, placings, strict=True)
        ]
        pieces = [
            Piece({entry.name: row}, 1, row.shape[1:], math.ceil(p.pixels / PIXELS_OF_A_LENGTH))
            for row, p in zip(rows, placings, strict=True)
        ]
        image = picture.pixels if work.draw is not None else None
        return Prepared(pieces, _Look(work, size, placings, image))

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        if len(pieces) == 1:
            return pieces[0].inputs
        name = self.preprocessor.entry.name
        return {name: np.concatenate([piece.inputs[name] for piece in pieces])}

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> Sighting:
        look = prepared.context
        assert isinstance(look, _Look)
        work, size = look.work, look.size
        rows = [np.asarray(output[self.output][0], dtype=np.float32) for output in outputs]
        labels: list[Label] | None = None
        detections: list[Detection] | None
        if work.regions is not None:
            detections = [
                self._with_text(region, row) for region, row in zip(work.regions, rows, strict=True)
            ]
        else:
            top_k = work.top_k or self.settings.top_k
            labels = self.meaning.labels(rows[0], top_k, work.threshold)
            detections = self.meaning.detections(rows[0], look.placings[0], size, work.threshold)
        picture = None
        if work.draw is not None and look.image is not None:
            picture = drawn(look.image, labels, detections, work.draw)
        return Sighting(*size, labels, detections, picture)

    def _with_text(self, region: Detection, row: Floats) -> Detection:
        """The region as it came, with what is said of it, if that is sure enough."""
        said = self.meaning.labels(row, 1, None)
        text, score = (said[0].label, said[0].score) if said else (None, None)
        return Detection(region.label, region.score, region.number, region.box, text, score)


def _check(work: PictureWork) -> None:
    if work.top_k is not None and not 1 <= work.top_k <= 1000:
        raise InvalidRequest("`top_k` has to be from 1 to 1,000", param="top_k")
    if work.threshold is not None and not 0 <= work.threshold <= 1:
        raise InvalidRequest("`threshold` has to be from 0 to 1", param="threshold")


def _part(picture: Picture, box: tuple[int, int, int, int]) -> Picture:
    pixels = picture.pixels.crop(box)
    return Picture(pixels, *pixels.size)


def _inside(box: Box, size: Size) -> tuple[int, int, int, int]:
    """The pixels of the picture that a box touches, of which it has to cover one."""
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(size[0])), min(box[3], float(size[1]))
    if not (right - left >= 1 and bottom - top >= 1):  # nor is NaN
        raise InvalidRequest(f"the region {list(box)} is not in the picture", param="regions")
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _with_size(settings: PictureSettings, model: Model) -> PictureSettings:
    """With the size for which Ultralytics exported the model, where nothing else says one."""
    known = re.fullmatch(r"\[(\d{1,4}), (\d{1,4})\]", model.metadata.get("imgsz", ""))
    if settings.size is not None or known is None or -1 not in model.inputs[0].shape[1:]:
        return settings
    return msgspec.structs.replace(settings, size=(int(known[1]), int(known[2])))
