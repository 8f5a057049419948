"""Small models that really look at pixels, and a way to run a task with a session of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnx import helper
from onnx_models import built

from edge.onnx.picture_task import Kind, PictureTask
from edge.onnx.task import Model
from edge.repository.picture import PictureSettings
from edge.tensors import PictureWork, Sighting, TensorFacts

CELL = 32
"""Side of the squares that the detector knows, in pixels of its input."""

STEP = 8

DATATYPES: dict[str, Any] = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(uint8)": "UINT8",
    "tensor(int64)": "INT64",
}


def squares_detector(
    form: Literal["yolov5", "yolov8", "end2end"] = "yolov8", size: int = 320
) -> bytes:
    """Finds red, green and blue squares of 32 by 32 on black, 320 by 320 pixels in RGB.

    Looks at a window every 8 pixels: the score of a colour is the mean of its channel less that
    of the two others. In `end2end` windows do not overlap.
    """
    step = CELL if form == "end2end" else STEP
    middles = np.arange(CELL // 2, size - CELL // 2 + 1, step, dtype=np.float32)
    down, across = np.meshgrid(middles, middles, indexing="ij")
    count = across.size
    half = np.full(count, CELL / 2, np.float32)
    if form == "end2end":
        rows = [across.ravel() - half, down.ravel() - half, across.ravel() + half]
        rows.append(down.ravel() + half)
    else:
        rows = [across.ravel(), down.ravel(), half * 2, half * 2]
    mixing = 1.5 * np.eye(3, dtype=np.float32) - 0.5
    weights = {
        "mixing": mixing.reshape(3, 3, 1, 1),
        "boxes": np.stack(rows)[None],
        "flat": np.array([0, 3, count], np.int64),
        "zero": np.zeros((1, 1, 1), np.float32),
        "none": np.array([0.0], np.float32),
    }
    nodes = [
        helper.make_node(
            "AveragePool", ["images"], ["means"], kernel_shape=[CELL, CELL], strides=[step, step]
        ),
        helper.make_node("Conv", ["means", "mixing"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["sure"]),
        helper.make_node("Reshape", ["sure", "flat"], ["scores"]),
        helper.make_node("ReduceMax", ["scores"], ["best"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["best", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["places"]),
    ]
    if form == "yolov8":
        nodes.append(helper.make_node("Concat", ["places", "scores"], ["output0"], axis=1))
        shape: list[Any] = ["batch", 7, count]
    elif form == "yolov5":
        # The objectness says whether there is anything, the classes which.
        nodes += [
            helper.make_node("Sign", ["scores"], ["which"]),
            helper.make_node("Concat", ["places", "best", "which"], ["columns"], axis=1),
            helper.make_node("Transpose", ["columns"], ["output0"], perm=[0, 2, 1]),
        ]
        shape = ["batch", count, 8]
    else:
        nodes += [
            helper.make_node("ArgMax", ["scores"], ["number"], axis=1, keepdims=1),
            helper.make_node("Cast", ["number"], ["class"], to=1),
            helper.make_node("Concat", ["places", "best", "class"], ["columns"], axis=1),
            helper.make_node("Transpose", ["columns"], ["output0"], perm=[0, 2, 1]),
        ]
        shape = ["batch", count, 6]
    return built(
        nodes,
        {"images": ("FP32", ["batch", 3, size, size])},
        {"output0": ("FP32", shape)},
        weights,
    )


def color_classifier(size: int = 8) -> bytes:
    """The mean of each channel is its score: bytes [batch, size, size, 3] to [batch, 3]."""
    return built(
        [
            helper.make_node("Cast", ["pixels"], ["numbers"], to=1),
            helper.make_node("ReduceMean", ["numbers"], ["scores"], axes=[1, 2], keepdims=0),
        ],
        {"pixels": ("UINT8", ["batch", size, size, 3])},
        {"scores": ("FP32", ["batch", 3])},
    )


class Looking:
    """A task and the session that computes for it, as the worker has them."""

    def __init__(
        self, kind: Kind, file: bytes | Path, folder: Path = Path(), **settings: Any
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        contents = file if isinstance(file, bytes) else str(file)
        self.session = onnxruntime.InferenceSession(
            contents, options, providers=["CPUExecutionProvider"]
        )
        inputs, outputs = (
            [
                TensorFacts(
                    entry.name,
                    DATATYPES[entry.type],
                    [side if isinstance(side, int) else -1 for side in entry.shape],
                )
                for entry in entries
            ]
            for entries in (self.session.get_inputs(), self.session.get_outputs())
        )
        metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        model = Model("m", folder, inputs, outputs, metadata, batched=True)
        self.task = PictureTask(kind, PictureSettings(**settings), model)

    def see(self, data: bytes, **work: Any) -> Sighting:
        """Pieces of one key are computed together."""
        prepared = self.task.prepare(PictureWork(data, **work), 32)
        outputs: list[Any] = [None] * len(prepared.pieces)
        for key in {piece.key for piece in prepared.pieces}:
            chosen = [i for i, piece in enumerate(prepared.pieces) if piece.key == key]
            found = self.session.run(None, self.task.join([prepared.pieces[i] for i in chosen]))
            for row, index in enumerate(chosen):
                outputs[index] = {
                    entry.name: values[row : row + 1]
                    for entry, values in zip(self.session.get_outputs(), found, strict=True)
                }
        return self.task.finish(prepared, outputs)
