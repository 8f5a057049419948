"""A classifier's output to labels, best first."""

from __future__ import annotations

import math

import numpy as np

from edge.errors import BadModelFile
from edge.onnx.boxes import Floats
from edge.onnx.task import Model
from edge.onnx.wordlists import labels_of
from edge.repository.picture import PictureSettings
from edge.tensors import Label


class Classifier:
    """Labels of the whole picture. The output has a score for each class."""

    def __init__(self, settings: PictureSettings, model: Model) -> None:
        self.names = labels_of(settings, model)
        self.softmax = settings.softmax
        self.threshold = -math.inf if settings.threshold is None else settings.threshold
        classes = math.prod(model.outputs[0].shape[1:])
        if classes > 0 and self.names and classes != len(self.names):
            raise BadModelFile(
                f"picture.labels: the model tells {classes} classes, "
                f"and there are {len(self.names)} labels"
            )

    def labels(self, output: Floats, top_k: int, threshold: float | None) -> list[Label]:
        scores = output.reshape(-1)
        if self.softmax:
            scores = softmax(scores)
        least = self.threshold if threshold is None else threshold
        return best(scores, self.names, top_k, least)

    def detections(self, *_: object) -> None:
        return None


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def best(scores: Floats, labels: list[str], top_k: int, threshold: float) -> list[Label]:
    """scores: [classes]. At most `top_k` classes of at least `threshold`; NaN is below any."""
    found = np.flatnonzero(scores >= threshold)
    order = found[np.argsort(-scores[found], kind="stable")[:top_k]]
    return [
        Label(label=name(labels, int(number)), score=float(scores[number]), number=int(number))
        for number in order
    ]


def name(labels: list[str], number: int) -> str:
    """What a class is called; its number where nobody said."""
    return labels[number] if 0 <= number < len(labels) else str(number)
