"""What the daemon and a model worker say to each other, in frames of `edge/frames.py`:

daemon ──► worker   Load, then Submit or Embed, Cancel and SetPace, at any time, Stop
worker ──► daemon   Ready or LoadFailed, then one Frame a step with the events of all sequences
"""

from __future__ import annotations

import msgspec

from edge.tensors import Inference
from edge.types import (
    Adapter,
    EngineSettings,
    EngineStats,
    Event,
    Generation,
    ModelFacts,
    Pace,
    Span,
)

HEARTBEAT_SECONDS = 1.0
"""An idle worker sends an empty frame this often, from the thread that would compute."""


class Load(msgspec.Struct, tag="load"):
    """First message: which model to load, and how."""

    name: str
    path: str
    settings: EngineSettings
    adapter: Adapter | None = None


class Submit(msgspec.Struct, tag="submit"):
    generation: Generation


class Embed(msgspec.Struct, tag="embed"):
    """For a model that embeds; its work is `TextWork`."""

    inference: Inference


class Cancel(msgspec.Struct, tag="cancel"):
    id: str


class SetPace(msgspec.Struct, tag="pace"):
    """From the next step on; what runs is not cut."""

    pace: Pace


class Stop(msgspec.Struct, tag="stop"):
    """Leave after the current step."""


class Ready(msgspec.Struct, tag="ready"):
    """The model is loaded and has computed something."""

    facts: ModelFacts


class LoadFailed(msgspec.Struct, tag="load_failed"):
    """The fields of an `EdgeError`; the worker leaves after it. weights: it is a want of memory,
    and already for the weights."""

    code: str
    message: str
    hint: str | None = None
    weights: bool = False


class Frame(msgspec.Struct, tag="frame"):
    """All that one step made, with the books after it. spans: what was computed since the last
    frame. at: when it was sent, time.monotonic()."""

    events: list[Event]
    stats: EngineStats
    spans: list[Span]
    at: float


Command = Load | Submit | Embed | Cancel | SetPace | Stop
Report = Ready | LoadFailed | Frame

COMMANDS: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
