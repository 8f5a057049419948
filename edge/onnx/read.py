"""A reader's output to text, by connectionist temporal classification (Graves et al., ICML 2006).

The best class of each step; repeats are one letter, and class 0 is the blank between letters.
"""

from __future__ import annotations

import numpy as np

from edge.errors import BadModelFile
from edge.onnx.boxes import Floats
from edge.onnx.task import Model
from edge.onnx.wordlists import characters_of
from edge.repository.picture import PictureSettings
from edge.tensors import Label

SURE = 0.5
"""Threshold where neither request nor manifest say: that of RapidOCR's tools."""


class Reader:
    """The text of a line: one label, or none where it is not sure."""

    def __init__(self, settings: PictureSettings, model: Model) -> None:
        self.characters = characters_of(settings, model)
        self.threshold = SURE if settings.threshold is None else settings.threshold
        shape = model.outputs[0].shape
        if len(shape) != 3:
            raise BadModelFile(f"a reader's output is [batch, steps, classes], this one is {shape}")
        self.letters = alphabet(self.characters, shape[2]) if shape[2] > 0 else None

    def labels(self, output: Floats, top_k: int, threshold: float | None) -> list[Label]:
        letters = self.letters or alphabet(self.characters, output.shape[1])
        text, score = decoded(output, letters)
        sure = score >= (self.threshold if threshold is None else threshold)
        return [Label(text, score)] if text and sure else []

    def detections(self, *_: object) -> None:
        return None


def alphabet(characters: list[str], classes: int) -> list[str]:
    """A letter for each class. The blank stands before the characters, and where there is one class
    more than that, the space stands behind them, as PaddleOCR trains its readers.

    Raises `BadModelFile` where the numbers do not go together.
    """
    if classes not in (len(characters) + 1, len(characters) + 2):
        raise BadModelFile(
            f"picture.characters: the model tells {classes} classes, a blank among them, "
            f"and there are {len(characters)} characters"
        )
    return ["", *characters, " "][:classes]


def decoded(output: Floats, letters: list[str]) -> tuple[str, float]:
    """output: [steps, classes], probabilities. The text and the mean of its letters' probabilities;
    an empty text has 0."""
    best = output.argmax(axis=1)
    new = np.concatenate([[True], best[1:] != best[:-1]]) & (best != 0)
    if not new.any():
        return "", 0.0
    score = float(output[new, best[new]].mean())
    return "".join(letters[number] for number in best[new]), score
