"""What the daemon and the ONNX worker say to each other, in frames of `edge/frames.py`:

    daemon ──► worker   Setup; LoadModel, UnloadModel, Compute, Cancel and SetPace at any time; Stop
    worker ──► daemon   Up, then what became of each of them, and a Beat every second

A `Stage` goes out before what it names begins: if the worker dies of it, the daemon knows whose
doing that may have been.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.repository.manifest import Manifest
from edge.repository.triton import Device, TritonConfig
from edge.tensors import Inference, OnnxFacts, Result
from edge.types import Pace, Span

HEARTBEAT_SECONDS = 1.0

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]


class ModelSpec(msgspec.Struct, frozen=True):
    """One version of a model, and how it is to be served.

    key: what it is called in all messages. folder, file: paths, of the model's folder and of the
    version's model. stamp: when that was last changed. declared: what config.pbtxt says, None
    without one. default_batch, delay_ms: where neither it nor the manifest says more.
    """

    key: str
    name: str
    version: int
    folder: str
    file: str
    stamp: int
    manifest: Manifest
    declared: TritonConfig | None
    default_batch: int
    delay_ms: float

    @property
    def device(self) -> Device:
        return self.declared.device if self.declared is not None else "auto"

    @property
    def most_rows(self) -> int:
        """Computed together at most, as far as is known before it is loaded; 0 for no batches."""
        if self.manifest.batch.max is not None:
            return self.manifest.batch.max
        return self.default_batch if self.declared is None else self.declared.max_batch


class Setup(msgspec.Struct, tag="setup"):
    """First message. threads: of each session. nice: how far behind others the process steps."""

    provider: Provider
    threads: int
    nice: int


class LoadModel(msgspec.Struct, tag="load"):
    spec: ModelSpec


class UnloadModel(msgspec.Struct, tag="unload"):
    key: str


class Compute(msgspec.Struct, tag="compute"):
    key: str
    inference: Inference


class Cancel(msgspec.Struct, tag="cancel"):
    id: str


class SetPace(msgspec.Struct, tag="pace"):
    pace: Pace


class Stop(msgspec.Struct, tag="stop"):
    """Leave now."""


class Up(msgspec.Struct, tag="up"):
    """onnxruntime's version, and the execution providers that it has here."""

    version: str
    providers: list[str]


class Loaded(msgspec.Struct, tag="loaded"):
    key: str
    facts: OnnxFacts


class NotLoaded(msgspec.Struct, tag="not_loaded"):
    """The fields of an `EdgeError`."""

    key: str
    code: str
    message: str
    hint: str | None = None


class Unloaded(msgspec.Struct, tag="unloaded"):
    key: str


class Stage(msgspec.Struct, tag="stage"):
    """How far inferences are. `waiting` for others to be computed with, or for the processor."""

    stage: Literal["preparing", "waiting", "computing"]
    ids: list[str]


class Computed(msgspec.Struct, tag="computed"):
    """seconds: that its batches took. rows: that were in them, others' included."""

    id: str
    result: Result
    seconds: float
    rows: int


class Refused(msgspec.Struct, tag="refused"):
    """The fields of an `EdgeError`."""

    id: str
    code: str
    message: str
    param: str | None = None


class Worked(msgspec.Struct, tag="worked"):
    """A batch of a model. until: all that it has computed before is told."""

    key: str
    span: Span
    until: float


class Beat(msgspec.Struct, tag="beat"):
    """memory_bytes: resident. taken_bytes: of that, what is gone for others, 0 where unknown.
    busy_seconds: for which the longest thing under way has gone on, at `at` (time.monotonic())."""

    memory_bytes: int
    taken_bytes: int
    busy_seconds: float
    at: float


Command = Setup | LoadModel | UnloadModel | Compute | Cancel | SetPace | Stop
Report = Up | Loaded | NotLoaded | Unloaded | Stage | Worked | Computed | Refused | Beat

COMMANDS: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
