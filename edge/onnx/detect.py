"""A detector's output to what is in the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.errors import BadModelFile
from edge.onnx.areas import text_areas
from edge.onnx.boxes import Floats, Found, end2end, on_picture, yolov5, yolov8
from edge.onnx.classify import name
from edge.onnx.placing import Placing, Size
from edge.onnx.task import Model
from edge.onnx.wordlists import labels_of
from edge.repository.picture import DetectorFormat, PictureSettings
from edge.tensors import Detection

SURE_BOX, SURE_TEXT = 0.25, 0.5
"""Thresholds where neither request nor manifest say: those of Ultralytics' and RapidOCR's tools."""


class Detector:
    """Boxes in the picture."""

    def __init__(self, settings: PictureSettings, model: Model) -> None:
        if settings.format is None:
            raise BadModelFile("a detector's model.yaml has to say picture.format")
        self.format = settings.format
        self.settings = settings
        text = settings.format == "db"
        self.names = labels_of(settings, model) or (["text"] if text else [])
        usual = SURE_TEXT if text else SURE_BOX
        self.threshold = usual if settings.threshold is None else settings.threshold
        shape = model.outputs[0].shape
        _check(self.format, shape, len(self.names) or None)

    def labels(self, *_: object) -> None:
        return None

    def detections(
        self, output: Floats, placing: Placing, size: Size, threshold: float | None
    ) -> list[Detection]:
        found = self._found(output, self.threshold if threshold is None else threshold, placing)
        found = on_picture(found, placing, *size)
        boxes: list[list[float]] = np.round(found.boxes, 2).tolist()
        return [
            Detection(
                name(self.names, int(number)),
                float(score),
                int(number),
                (left, top, right, bottom),
            )
            for (left, top, right, bottom), score, number in zip(
                boxes, found.scores, found.numbers, strict=True
            )
        ]

    def _found(self, output: Floats, threshold: float, placing: Placing) -> Found:
        """In pixels of the model's input."""
        settings = self.settings
        _check(self.format, (1, *output.shape), len(self.names) or None)
        if self.format == "yolov5":
            return yolov5(output, threshold, settings.iou, settings.most)
        if self.format == "yolov8":
            return yolov8(output, threshold, settings.iou, settings.most)
        if self.format == "end2end":
            return end2end(output, threshold, settings.most)
        found = text_areas(output[0], settings.binarize, threshold, settings.expand, settings.most)
        ratio = placing.canvas[0] / output.shape[2], placing.canvas[1] / output.shape[1]
        return Found(found.boxes * (ratio * 2), found.scores, found.numbers)


def _check(form: DetectorFormat, shape: Sequence[int], classes: int | None) -> None:
    """Raises `BadModelFile` where an output of that shape is not of that format.

    shape: -1 for what is not known yet. classes: how many have labels; None where none have.
    """
    wanted: Sequence[int | str]
    if form == "yolov8":
        wanted = (1, 4 + classes if classes else "4 + classes", "N")
        fine = _like(shape, wanted) and (shape[1] == -1 or shape[1] > 4)
    elif form == "yolov5":
        wanted = (1, "N", 5 + classes if classes else "5 + classes")
        fine = _like(shape, wanted) and (shape[2] == -1 or shape[2] > 5)
    else:
        wanted = (1, "N", 6) if form == "end2end" else (1, 1, "height", "width")
        fine = _like(shape, wanted)
    if not fine:
        raise BadModelFile(
            f"picture.format: the model's output is {list(shape)}, "
            f"and {form} is [{', '.join(map(str, wanted))}]"
        )


def _like(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    """The first dimension is that of the batch, which may be any."""
    return len(shape) == len(wanted) and all(
        length in (-1, goal) or isinstance(goal, str)
        for length, goal in zip(shape[1:], wanted[1:], strict=True)
    )
