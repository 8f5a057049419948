"""What the daemon and a model worker say to each other, and how it is framed.

One Unix stream socket pair, length-prefixed MessagePack both ways:

    daemon ──► worker   Load, then Submit and Cancel at any time, Stop
    worker ──► daemon   Ready or LoadFailed, then one Frame a step with the events of all sequences
"""

from __future__ import annotations

import struct

import msgspec

from edge.types import EngineSettings, EngineStats, Event, Generation, ModelFacts

HEARTBEAT_SECONDS = 1.0
"""An idle worker sends an empty frame this often, from the thread that would compute."""

HEADER = struct.Struct("!I")
LARGEST_MESSAGE = 256 * 1024 * 1024


class Load(msgspec.Struct, tag="load"):
    """First message: which model to load, and how."""

    name: str
    path: str
    settings: EngineSettings


class Submit(msgspec.Struct, tag="submit"):
    generation: Generation


class Cancel(msgspec.Struct, tag="cancel"):
    id: str


class Stop(msgspec.Struct, tag="stop"):
    """Leave after the current step."""


class Ready(msgspec.Struct, tag="ready"):
    """The model is loaded and has computed something."""

    facts: ModelFacts


class LoadFailed(msgspec.Struct, tag="load_failed"):
    """The fields of an `EdgeError`; the worker leaves after it."""

    code: str
    message: str
    hint: str | None = None


class Frame(msgspec.Struct, tag="frame"):
    """All that one step made, with the books after it."""

    events: list[Event]
    stats: EngineStats


Command = Load | Submit | Cancel | Stop
Report = Ready | LoadFailed | Frame

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def pack(message: Command | Report) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def body_size(header: bytes) -> int:
    """Raises ValueError for a length that cannot be: the other side is out of step."""
    (size,) = HEADER.unpack(header)
    if size > LARGEST_MESSAGE:
        raise ValueError(f"a message of {size} bytes")
    return int(size)


def unpack_command(body: bytes) -> Command:
    return _commands.decode(body)


def unpack_report(body: bytes) -> Report:
    return _reports.decode(body)
