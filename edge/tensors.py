"""The words of inference that is no generation: tensors, texts and pictures in; tensors, vectors,
scores and sightings out.

All are msgspec structs: they travel unchanged from the door to the ONNX worker and back as
MessagePack. Nothing here has behaviour beyond its own fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.types import Energy, Priority

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
"""As KServe's Open Inference Protocol names them."""

SIZES: dict[Datatype, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of an element; those of BYTES have their own lengths."""

LAYOUTS: dict[Datatype, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""How `Tensor.data` lays elements out, as numpy spells it."""


class Tensor(msgspec.Struct):
    """data: elements in row-major order, little-endian; each of BYTES as a length of 4 bytes and
    its contents, as the protocol's binary extension has them."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: bytes


class TensorWork(msgspec.Struct, tag="tensors"):
    """Any model. outputs: the names of those that are wanted, empty for all."""

    inputs: list[Tensor]
    outputs: list[str] = []


class TextWork(msgspec.Struct, tag="texts"):
    """Texts, or their token ids, to embed. dimensions: leading ones that are wanted, normalised
    anew; None for all. kind: what the texts are (query, passage…), for models that want to be
    told."""

    texts: list[str | list[int]]
    dimensions: int | None = None
    kind: str | None = None


class PairWork(msgspec.Struct, tag="pairs"):
    """Documents to score against a query, by a cross-encoder."""

    query: str
    documents: list[str]


class Label(msgspec.Struct, omit_defaults=True):
    """What a classifier calls a picture, or a reader reads in it. number: of the class."""

    label: str
    score: float
    number: int | None = None


class Detection(msgspec.Struct, omit_defaults=True):
    """A thing in a picture. box: left, top, right, bottom in pixels of the picture as it came,
    upright. text: what a second model read there, or what a second classifier calls it.
    text_score: how sure that is."""

    label: str
    score: float
    number: int
    box: tuple[float, float, float, float]
    text: str | None = None
    text_score: float | None = None


class PictureWork(msgspec.Struct, tag="picture", omit_defaults=True):
    """An encoded picture to look at. top_k, threshold: None for what the model's manifest says.
    draw: return the picture with what was found drawn in, in this format. regions: look at each of
    these instead of at the whole picture, and return them with their text."""

    data: bytes
    top_k: int | None = None
    threshold: float | None = None
    draw: Literal["jpeg", "png"] | None = None
    regions: list[Detection] | None = None


Work = TensorWork | TextWork | PairWork | PictureWork


class TensorResult(msgspec.Struct, tag="tensors"):
    outputs: list[Tensor]


class Vectors(msgspec.Struct, tag="vectors"):
    """data: float32, little-endian, [texts, width]. tokens: computed for all texts together."""

    width: int
    data: bytes
    tokens: int


class Scores(msgspec.Struct, tag="scores"):
    """One for each document, higher is more relevant."""

    scores: list[float]
    tokens: int


class Sighting(msgspec.Struct, tag="sighting", omit_defaults=True):
    """What was seen in a picture of that width and height (pixels). labels: of a classifier, best
    first; detections: of a detector, surest first. picture: with what was found drawn in."""

    width: int
    height: int
    labels: list[Label] | None = None
    detections: list[Detection] | None = None
    picture: bytes | None = None


Result = TensorResult | Vectors | Scores | Sighting


class Inference(msgspec.Struct, omit_defaults=True):
    """One request to a model. version: None for the one that the model's folder prefers.

    deadline: time.monotonic() at which the answer becomes worthless (see `Generation`).
    caller: whose it is, which fairness goes by. may_wait: see `Request`.
    """

    id: str
    model: str
    work: Work
    version: int | None = None
    priority: Priority = "normal"
    deadline: float | None = None
    caller: str = ""
    kept: bool = False
    may_wait: bool = False


class TensorFacts(msgspec.Struct):
    """An input or output as the model declares it; -1 for a dimension that is free."""

    name: str
    datatype: Datatype
    shape: list[int]


class OnnxFacts(msgspec.Struct):
    """A loaded version of a model. task: what its manifest says it is for, `tensors` without one.

    provider: onnxruntime's execution provider that computes it. max_batch: rows that are computed
    together at most; 0 where its first dimension is not for batches.
    """

    name: str
    version: int
    task: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    provider: str
    max_batch: int
    size_bytes: int
    load_seconds: float
    memory_bytes: int


class Inferred(msgspec.Struct):
    """What came of an `Inference`. rows: that were computed in the batches of this request.
    energy: what was used for it, as far as it is known."""

    result: Result
    model: str
    version: int
    seconds: float
    rows: int
    energy: Energy = Energy()
